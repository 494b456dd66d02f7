"""The processor itself as an oracle: VDPBF16PS and TDPBF16PS, called through LLVM.

    python -m tests.oracle.silicon INSTRUCTION IN.npz OUT.npy

runs an instruction on the arrays ``a``, ``b`` and ``c`` of a file.  :func:`results` does so in a
process of its own: AMX has to be asked of the kernel for a whole process, which may refuse it to
one that handles signals on small stacks of its own, as test runners do.

References
----------
Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2; Linux,
Documentation/arch/x86/xstate.rst, for the permission.
"""

import ctypes
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

LANES = 16  # float32 numbers of a vector, rows and columns of a tile
ROW = 64  # bytes of a vector and of a tile's row
_FEATURES = {"vdpbf16ps": ("avx512bf16",), "tdpbf16ps": ("amx-tile", "amx-bf16")}
_REFUSED = 3  # exit status
_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18

# A loop over blocks of operands; every step moves the pointers on by the bytes given.
_LOOP = """
define void @run(i64 %count, ptr %a, ptr %b, ptr %c, ptr %out, ptr %config) {{
entry:
  {before}
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %ai = mul i64 %i, {source}
  %ci = mul i64 %i, {target}
  %pa = getelementptr i8, ptr %a, i64 %ai
  %pb = getelementptr i8, ptr %b, i64 %ai
  %pc = getelementptr i8, ptr %c, i64 %ci
  %po = getelementptr i8, ptr %out, i64 %ci
  {step}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  {after}
  ret void
}}
"""
_CODE = {
    "vdpbf16ps": """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
"""
    + _LOOP.format(
        before="",
        source=ROW,
        target=ROW,
        step="""
  %va = load <32 x bfloat>, ptr %pa, align 2
  %vb = load <32 x bfloat>, ptr %pb, align 2
  %vc = load <16 x float>, ptr %pc, align 4
  %vo = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
      <16 x float> %vc, <32 x bfloat> %va, <32 x bfloat> %vb)
  store <16 x float> %vo, ptr %po, align 4
""",
        after="",
    ),
    "tdpbf16ps": """
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tileloadd64(i8, ptr, i64)
declare void @llvm.x86.tdpbf16ps(i8, i8, i8)
declare void @llvm.x86.tilestored64(i8, ptr, i64)
declare void @llvm.x86.tilerelease()
"""
    + _LOOP.format(
        before="call void @llvm.x86.ldtilecfg(ptr %config)",
        source=LANES * ROW,
        target=LANES * ROW,
        step="""
  call void @llvm.x86.tileloadd64(i8 0, ptr %pc, i64 64)
  call void @llvm.x86.tileloadd64(i8 1, ptr %pa, i64 64)
  call void @llvm.x86.tileloadd64(i8 2, ptr %pb, i64 64)
  call void @llvm.x86.tdpbf16ps(i8 0, i8 1, i8 2)
  call void @llvm.x86.tilestored64(i8 0, ptr %po, i64 64)
""",
        after="call void @llvm.x86.tilerelease()",
    ),
}


class RefusedError(RuntimeError):
    """The kernel does not let the process use the instruction."""


def missing(instruction: str) -> str | None:
    """Why the processor cannot be asked, or None if it can."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"no x86-64 processor: {platform.machine()}"
    found = llvm.get_host_cpu_features()
    absent = [name for name in _FEATURES[instruction] if not found.get(name)]
    if absent:
        return f"this processor has no {', '.join(absent)}"
    if instruction == "tdpbf16ps" and sys.platform != "linux":
        return "the permission to use AMX is only known to be asked of Linux"
    return None


def results(instruction: str, a: NDArray, b: NDArray, c: NDArray) -> NDArray[np.float32]:
    """``c + sum a*b`` by one instruction for every row, in a process of its own.

    Parameters
    ----------
    instruction : {"vdpbf16ps", "tdpbf16ps"}
    a, b : ndarray of uint16, shape (n, k)
        Codes of bfloat16; k is 2, or an even number up to 32 for tiles.
    c : ndarray of float32, shape (n,)

    Raises
    ------
    RefusedError
        If the kernel refuses the use of AMX.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, taken = Path(folder, "in.npz"), Path(folder, "out.npy")
        np.savez(given, a=a, b=b, c=c)
        command = [sys.executable, "-m", "tests.oracle.silicon", instruction, given, taken]
        root = Path(__file__).parents[2]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode == _REFUSED:
            raise RefusedError(done.stderr.strip())
        if done.returncode:
            raise RuntimeError(f"{instruction}: exit {done.returncode}: {done.stderr[-800:]}")
        return np.load(taken)


def _pointer(x: NDArray) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.ctypes.data)


def _call(instruction: str, count: int, *arrays: NDArray) -> None:
    """Compile the loop of an instruction and run it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = ",".join(f"+{name}" for name in ("avx512f", *_FEATURES[instruction]))
    machine = target.create_target_machine(features=features, jit=True)
    module = llvm.parse_assembly(_CODE[instruction])
    module.triple = llvm.get_default_triple()
    module.verify()
    with llvm.create_mcjit_compiler(module, machine) as engine:
        engine.finalize_object()
        pointers = [ctypes.c_void_p] * len(arrays)
        run = ctypes.CFUNCTYPE(None, ctypes.c_long, *pointers)(engine.get_function_address("run"))
        run(count, *map(_pointer, arrays))


def _vectors(a: NDArray, b: NDArray, c: NDArray) -> NDArray[np.float32]:
    count = -(-len(c) // LANES)
    whole = [np.zeros((count * LANES, *x.shape[1:]), x.dtype) for x in (a, b, c)]
    for room, x in zip(whole, (a, b, c), strict=True):
        room[: len(x)] = x
    out = np.empty(count * LANES, np.float32)
    _call("vdpbf16ps", count, *whole, out, out)
    return out[: len(c)]


def _tiles(a: NDArray, b: NDArray, c: NDArray) -> NDArray[np.float32]:
    """Each tile computes 16 of the inner products, on its diagonal."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA):
        raise RefusedError(f"the kernel refuses the use of AMX: errno {ctypes.get_errno()}")
    terms = a.shape[1]
    config = np.zeros(ROW, np.uint8)
    config[0] = 1  # the palette
    rows, row_bytes = config[48:], config[16:48].view(np.uint16)
    rows[:3], row_bytes[:3] = (LANES, LANES, terms // 2), (ROW, 2 * terms, ROW)
    count = -(-len(c) // LANES)
    left = np.zeros((count * LANES, ROW // 2), np.uint16)
    right, addends = np.zeros_like(left), np.zeros(count * LANES, np.float32)
    left[: len(c), :terms], right[: len(c), :terms], addends[: len(c)] = a, b, c
    # Pairs of terms are rows of the right operand's tile, inner products its columns.
    pairs = right.view(np.uint32).reshape(count, LANES, LANES).transpose(0, 2, 1)
    initial = np.zeros((count, LANES, LANES), np.float32)
    diagonal = np.arange(LANES)
    initial[:, diagonal, diagonal] = addends.reshape(count, LANES)
    out = np.empty_like(initial)
    _call("tdpbf16ps", count, left, np.ascontiguousarray(pairs), initial, out, config)
    return out[:, diagonal, diagonal].reshape(-1)[: len(c)]


def main() -> None:
    instruction, given, taken = sys.argv[1:]
    with np.load(given) as arrays:
        a, b, c = (np.ascontiguousarray(arrays[name]) for name in "abc")
    run = {"vdpbf16ps": _vectors, "tdpbf16ps": _tiles}[instruction]
    try:
        np.save(taken, run(a, b, c))
    except RefusedError as error:
        print(error, file=sys.stderr)
        raise SystemExit(_REFUSED) from None


if __name__ == "__main__":
    main()
