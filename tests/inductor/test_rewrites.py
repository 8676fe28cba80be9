"""Each rewrite, word for word: the graph before and after."""

from __future__ import annotations

import expecttest
import pytest
import torch
from harness import rewrite, rewrite_training
from torch import Tensor, nn

from binop.functional import binary_conv2d

pytestmark = pytest.mark.compile
ops = torch.ops.binop


class TestRewrites(expecttest.TestCase):
    def setUp(self) -> None:
        torch.manual_seed(0)
        self.x = torch.randn(2, 32, 8, 8)
        self.weight = torch.randn(64, 32, 3, 3)
        self.packed = ops.pack(self.x), ops.pack(self.weight)

    def test_convolution(self) -> None:
        def call(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
            return binary_conv2d(x, weight, None, scale, padding=1, pad_value=1)

        got = rewrite(call, self.x, self.weight, torch.rand(64))
        self.assertExpectedInline(
            got.before,
            """\
full = aten.full.default([], 1, ('dtype', torch.float32), ('layout', torch.strided), ('device', device(type='cpu')), ('pin_memory', False))
binary_conv2d = binop.binary_conv2d.default(arg1_1, arg0_1, full, arg2_1, [1, 1], [1, 1], [1, 1], 1, 1)
return (binary_conv2d,)""",
        )
        self.assertExpectedInline(
            got.after,
            """\
pack_default = binop.pack.default(arg1_1)
pack_default_1 = binop.pack.default(arg0_1)
binary_conv2d_packed_explicit = binop.binary_conv2d_packed.explicit(pack_default, pack_default_1, 32, arg2_1, None, [1, 1], [1, 1], [1, 1], 1, 1, torch.float32)
clone_default = aten.clone.default(binary_conv2d_packed_explicit, ('memory_format', torch.contiguous_format))
return (clone_default,)""",
        )

    def test_training(self) -> None:
        tensors = [self.x, self.weight, torch.rand(64)]

        def call(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
            return binary_conv2d(x, weight, None, scale, padding=1)

        got = rewrite_training(call, *(t.requires_grad_() for t in tensors))
        head = "\n".join(got.before.splitlines()[:5])
        self.assertExpectedInline(
            head,
            """\
full = aten.full.default([], 1, ('dtype', torch.float32), ('layout', torch.strided), ('device', device(type='cpu')), ('pin_memory', False))
binary_conv2d = binop.binary_conv2d.default(primals_2, primals_1, full, primals_3, [1, 1], [1, 1])
pack_with_mask = binop.pack_with_mask.default(primals_2, full, 1.0)
getitem = <built-in function getitem>(pack_with_mask, 0)
getitem_1 = <built-in function getitem>(pack_with_mask, 1)""",
        )
        head = "\n".join(got.after.splitlines()[:7])
        self.assertExpectedInline(
            head,
            """\
full = aten.full.default([], 1, ('dtype', torch.float32), ('layout', torch.strided), ('device', device(type='cpu')), ('pin_memory', False))
pack_with_mask = binop.pack_with_mask.default(primals_2, full, 1.0)
getitem = <built-in function getitem>(pack_with_mask, 0)
pack_default = binop.pack.default(primals_1)
binary_conv2d_packed_explicit = binop.binary_conv2d_packed.explicit(getitem, pack_default, 32, primals_3, None, [1, 1], [1, 1], [1, 1], 1, 0, torch.float32)
clone_default = aten.clone.default(binary_conv2d_packed_explicit, ('memory_format', torch.contiguous_format))
getitem_1 = <built-in function getitem>(pack_with_mask, 1)""",
        )

    def test_threshold(self) -> None:
        x, weight = self.packed
        shift = nn.Parameter(torch.randn(64, 1, 1))
        scale = nn.Parameter(torch.rand(64))

        def call(x: Tensor) -> Tensor:
            y = ops.binary_conv2d_packed.explicit(
                x, weight, 32, scale, None, [2, 2], [1, 1], [1, 1], 1, 0, torch.float32
            )
            return ops.pack((y + shift).clamp(-1.0, 1.0))

        got = rewrite(call, x)
        assert torch.equal(got.output, call(x))
        self.assertExpectedInline(
            got.before,
            """\
binary_conv2d_packed = binop.binary_conv2d_packed.explicit(arg2_1, arg3_1, 32, arg0_1, None, [2, 2], [1, 1], [1, 1], 1, 0, torch.float32)
add = aten.add.Tensor(binary_conv2d_packed, arg1_1)
clamp_min = aten.clamp_min.default(add, -1.0)
clamp_max = aten.clamp_max.default(clamp_min, 1.0)
pack = binop.pack.default(clamp_max)
return (pack,)""",
        )
        self.assertExpectedInline(
            got.after,
            """\
_binop_constant0 = constant
_binop_constant1 = constant
binary_conv2d_threshold_default = binop.binary_conv2d_threshold.default(arg2_1, arg3_1, 32, _binop_constant0, _binop_constant1, [2, 2], [1, 1], [1, 1], 1, 0)
return (binary_conv2d_threshold_default,)""",
        )

    def test_threshold_searched(self) -> None:
        x, weight = self.packed

        def call(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
            y = ops.binary_conv2d_packed(x, weight, 32, scale, padding=[1, 1], pad_value=1)
            return ops.pack(y - 3.5)

        x, scale = x.repeat(16, 1, 1, 1), torch.rand(64)
        got = rewrite(call, x, weight, scale)
        assert torch.equal(got.output, call(x, weight, scale))
        self.assertExpectedInline(
            got.after,
            """\
iota_default = prims.iota.default(17, ('start', 0), ('step', 17), ('dtype', torch.int64), ('device', device(type='cpu')), ('requires_grad', False))
view_default = aten.view.default(iota_default, [1, 1, 17, 1])
mul_tensor = aten.mul.Tensor(view_default, 2)
add_tensor = aten.add.Tensor(mul_tensor, -288)
convert_element_type_default = prims.convert_element_type.default(add_tensor, torch.float32)
view_default_1 = aten.view.default(arg2_1, [1, -1, 1, 1])
mul_tensor_1 = aten.mul.Tensor(view_default_1, convert_element_type_default)
sub_tensor = aten.sub.Tensor(mul_tensor_1, 3.5)
view_dtype = aten.view.dtype(sub_tensor, torch.int32)
ge_scalar = aten.ge.Scalar(view_dtype, 0)
le_scalar = aten.le.Scalar(view_dtype, 2139095040)
eq_scalar = aten.eq.Scalar(view_dtype, -2147483648)
bitwise_and_tensor = aten.bitwise_and.Tensor(ge_scalar, le_scalar)
bitwise_or_tensor = aten.bitwise_or.Tensor(bitwise_and_tensor, eq_scalar)
slice_tensor = aten.slice.Tensor(bitwise_or_tensor, 2, 0, 1)
eq_tensor = aten.eq.Tensor(bitwise_or_tensor, slice_tensor)
sum_dim_int_list = aten.sum.dim_IntList(eq_tensor, [2], True)
sub_tensor_1 = aten.sub.Tensor(sum_dim_int_list, 1)
mul_tensor_2 = aten.mul.Tensor(sub_tensor_1, 17)
iota_default_1 = prims.iota.default(17, ('start', 0), ('step', 1), ('dtype', torch.int64), ('device', device(type='cpu')), ('requires_grad', False))
view_default_2 = aten.view.default(iota_default_1, [1, 1, 17, 1])
add_tensor_1 = aten.add.Tensor(mul_tensor_2, view_default_2)
clamp_max_default = aten.clamp_max.default(add_tensor_1, 288)
mul_tensor_3 = aten.mul.Tensor(clamp_max_default, 2)
add_tensor_2 = aten.add.Tensor(mul_tensor_3, -288)
convert_element_type_default_1 = prims.convert_element_type.default(add_tensor_2, torch.float32)
view_default_3 = aten.view.default(arg2_1, [1, -1, 1, 1])
mul_tensor_4 = aten.mul.Tensor(view_default_3, convert_element_type_default_1)
sub_tensor_2 = aten.sub.Tensor(mul_tensor_4, 3.5)
view_dtype_1 = aten.view.dtype(sub_tensor_2, torch.int32)
ge_scalar_1 = aten.ge.Scalar(view_dtype_1, 0)
le_scalar_1 = aten.le.Scalar(view_dtype_1, 2139095040)
eq_scalar_1 = aten.eq.Scalar(view_dtype_1, -2147483648)
bitwise_and_tensor_1 = aten.bitwise_and.Tensor(ge_scalar_1, le_scalar_1)
bitwise_or_tensor_1 = aten.bitwise_or.Tensor(bitwise_and_tensor_1, eq_scalar_1)
eq_tensor_1 = aten.eq.Tensor(bitwise_or_tensor_1, slice_tensor)
sum_dim_int_list_1 = aten.sum.dim_IntList(eq_tensor_1, [2], True)
add_tensor_3 = aten.add.Tensor(mul_tensor_2, sum_dim_int_list_1)
clamp_max_default_1 = aten.clamp_max.default(add_tensor_3, 289)
mul_tensor_5 = aten.mul.Tensor(clamp_max_default_1, 2)
add_tensor_4 = aten.add.Tensor(mul_tensor_5, -288)
convert_element_type_default_2 = prims.convert_element_type.default(add_tensor_4, torch.int32)
expand_default = aten.expand.default(convert_element_type_default_2, [1, 64, 1, 1])
clone_default = aten.clone.default(expand_default, ('memory_format', torch.contiguous_format))
view_default_4 = aten.view.default(clone_default, [64])
expand_default_1 = aten.expand.default(slice_tensor, [1, 64, 1, 1])
clone_default_1 = aten.clone.default(expand_default_1, ('memory_format', torch.contiguous_format))
view_default_5 = aten.view.default(clone_default_1, [64])
binary_conv2d_threshold_default = binop.binary_conv2d_threshold.default(arg0_1, arg1_1, 32, view_default_4, view_default_5, [1, 1], [1, 1], [1, 1], 1, 1)
return (binary_conv2d_threshold_default,)""",
        )

    def test_pool(self) -> None:
        x, weight = self.packed
        shift = nn.Parameter(torch.randn(64, 1, 1))
        scale = nn.Parameter(torch.randn(64))

        def call(x: Tensor) -> Tensor:
            y = ops.binary_conv2d_packed(x, weight, 32, scale, padding=[1, 1])
            return ops.pack(nn.functional.max_pool2d(y + shift, 2))

        got = rewrite(call, x)
        assert torch.equal(got.output, call(x))
        self.assertExpectedInline(
            got.before,
            """\
binary_conv2d_packed = binop.binary_conv2d_packed.default(arg2_1, arg3_1, 32, arg0_1, None, [1, 1], [1, 1])
add = aten.add.Tensor(binary_conv2d_packed, arg1_1)
_low_memory_max_pool_with_offsets = prims._low_memory_max_pool_with_offsets.default(add, [2, 2], [2, 2], [0, 0], [1, 1], False)
getitem = <built-in function getitem>(_low_memory_max_pool_with_offsets, 0)
pack = binop.pack.default(getitem)
return (pack,)""",
        )
        self.assertExpectedInline(
            got.after,
            """\
_binop_constant0 = constant
_binop_constant1 = constant
binary_conv2d_threshold_default = binop.binary_conv2d_threshold.default(arg2_1, arg3_1, 32, _binop_constant0, _binop_constant1, [1, 1], [1, 1], [1, 1], 1, 0)
slice_tensor = aten.slice.Tensor(binary_conv2d_threshold_default, 1, 0, 7, 2)
slice_tensor_1 = aten.slice.Tensor(slice_tensor, 2, 0, 7, 2)
slice_tensor_2 = aten.slice.Tensor(binary_conv2d_threshold_default, 1, 0, 7, 2)
slice_tensor_3 = aten.slice.Tensor(slice_tensor_2, 2, 1, 8, 2)
bitwise_or_tensor = aten.bitwise_or.Tensor(slice_tensor_1, slice_tensor_3)
slice_tensor_4 = aten.slice.Tensor(binary_conv2d_threshold_default, 1, 1, 8, 2)
slice_tensor_5 = aten.slice.Tensor(slice_tensor_4, 2, 0, 7, 2)
bitwise_or_tensor_1 = aten.bitwise_or.Tensor(bitwise_or_tensor, slice_tensor_5)
slice_tensor_6 = aten.slice.Tensor(binary_conv2d_threshold_default, 1, 1, 8, 2)
slice_tensor_7 = aten.slice.Tensor(slice_tensor_6, 2, 1, 8, 2)
bitwise_or_tensor_2 = aten.bitwise_or.Tensor(bitwise_or_tensor_1, slice_tensor_7)
return (bitwise_or_tensor_2,)""",
        )

    def test_cat(self) -> None:
        got = rewrite(lambda a, b: ops.pack(torch.cat([a, b], 1)), self.x, self.x * 2)
        self.assertExpectedInline(
            got.before,
            """\
cat = aten.cat.default([arg0_1, arg1_1], 1)
pack = binop.pack.default(cat)
return (pack,)""",
        )
        self.assertExpectedInline(
            got.after,
            """\
pack_default = binop.pack.default(arg0_1)
pack_default_1 = binop.pack.default(arg1_1)
cat_default = aten.cat.default([pack_default, pack_default_1], 3)
return (cat_default,)""",
        )

    def test_shared_pack(self) -> None:
        got = rewrite(lambda x: (ops.pack(x), ops.pack(x) + 1), self.x)
        self.assertExpectedInline(
            got.after,
            """\
pack = binop.pack.default(arg0_1)
add = aten.add.Tensor(pack, 1)
return (pack, add)""",
        )
