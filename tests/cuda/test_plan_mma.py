"""What conv_mma computes from its plan, done again in Python: places in the patch, classes of
pixels, divisions."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_plan import AMPERE, AMPERE_OF_H200_SIZE, CALL, plan, sizes, tile

from binop._cuda import launches
from binop._cuda.launches import Device
from binop.geometry import Conv2dGeometry

GEOMETRIES = st.builds(
    Conv2dGeometry,
    batch=st.integers(1, 5),
    channels=st.sampled_from([3, 32, 64, 96, 128, 640]),
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    out_channels=st.sampled_from([8, 64, 72]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.just(1),
).filter(lambda geometry: min(geometry.out_height, geometry.out_width) >= 1)


def entry_source(size: dict[str, int], tile_start: int, entry: int) -> tuple[int, int, int]:
    """The image, row and column that conv_mma loads to an entry of the patch."""
    segment, offset = divmod(entry, size["segment_entries"])
    columns = size["out_width"]
    plane = size["out_height"] * columns
    if size["patch_per_tap"]:
        i, j = divmod(segment, size["kernel_columns"])
        image, place = divmod(min(tile_start + offset, size["pixels"] - 1), plane)
        row = place // columns * size["stride_rows"] + i * size["dilation_rows"]
        column = place % columns * size["stride_columns"] + j * size["dilation_columns"]
    else:
        first_image, place = divmod(tile_start, plane)
        line = place // columns * size["stride_rows"] * size["padded_width"]
        line += place % columns * size["stride_columns"] + segment * size["segment_step"] + offset
        image, rest = divmod(line, size["padded_plane"])
        image += first_image
        row, column = divmod(rest, size["padded_width"])
    return image, row - size["padding_rows"], column - size["padding_columns"]


@settings(deadline=None)
@given(GEOMETRIES, st.sampled_from([AMPERE_OF_H200_SIZE, AMPERE]))
def test_every_tap_finds_its_pixel_in_the_patch(geometry: Conv2dGeometry, device: Device) -> None:
    launch = plan(geometry, CALL, device)
    assume(launch is not None and launch.kernel.source == "conv_mma.cu")
    size, pixels = sizes(launch), tile(launch).pixels
    columns = size["out_width"]
    plane = size["out_height"] * columns
    entries = size["segments"] * size["segment_entries"]
    for start in range(0, size["pixels"], pixels):
        first_image, first = divmod(start, plane)
        last = 0
        for pixel in range(min(start + pixels, size["pixels"]) - 1, start - 1, -1):
            image, place = divmod(pixel, plane)
            p, q = divmod(place, columns)
            line = (image - first_image) * size["padded_plane"]
            line += (p - first // columns) * size["stride_rows"] * size["padded_width"]
            line += (q - first % columns) * size["stride_columns"]
            last = max(last, line)  # that of the tile's last pixel, which came first
            for i in range(geometry.kernel[0]):
                for j in range(geometry.kernel[1]):
                    entry = pixel - start if size["patch_per_tap"] else line
                    entry += i * size["tap_rows_apart"] + j * size["tap_columns_apart"]
                    assert 0 <= entry < entries
                    if not size["patch_per_tap"]:
                        assert entry % size["segment_entries"] <= last + size["tap_entries"]
                    assert entry_source(size, start, entry) == (
                        image,
                        p * geometry.stride[0] - geometry.padding[0] + i * geometry.dilation[0],
                        q * geometry.stride[1] - geometry.padding[1] + j * geometry.dilation[1],
                    )


@settings(deadline=None)
@given(GEOMETRIES)
def test_classes_of_pixels_are_numbered_without_gaps_at_the_ends(geometry: Conv2dGeometry) -> None:
    launch = plan(geometry, CALL, AMPERE_OF_H200_SIZE)
    assume(launch is not None and launch.kernel.source == "conv_mma.cu")
    size = sizes(launch)
    if geometry.padding == (0, 0):
        assert size["row_classes"] == size["column_classes"] == 1
        return
    for axis, name in enumerate(("row", "column")):
        taps, extent = geometry.kernel[axis], (geometry.height, geometry.width)[axis]
        found = set()
        for out in range((geometry.out_height, geometry.out_width)[axis]):
            start = out * geometry.stride[axis] - geometry.padding[axis]
            taps_at = [start + tap * geometry.dilation[axis] for tap in range(taps)]
            first = sum(at < 0 for at in taps_at)
            last = first + sum(0 <= at < extent for at in taps_at)
            number = 2 * taps - first - last
            # The number tells the interval, as the kernel reads it.
            assert (first, last) == (
                (taps - number, taps) if number < taps else (0, 2 * taps - number)
            )
            found.add(number - size[f"first_{name}_class"])
        assert found <= set(range(size[f"{name}_classes"]))
        assert {0, size[f"{name}_classes"] - 1} <= found


@given(st.integers(0, 2**31 - 1), st.integers(1, 2**31 - 1))
def test_the_kernels_divide_by_multiplying(value: int, divisor: int) -> None:
    for number in {value, value // divisor * divisor, max(0, value // divisor * divisor - 1)}:
        shift, multiplier = divmod(launches.reciprocal(divisor), 2**32)
        assert shift < 32
        assert (2 * number * multiplier >> 32) >> shift == number // divisor
