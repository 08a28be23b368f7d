"""Builds the peers from the package indexes: llama.cpp from the source that the Python package
`llama-cpp-python` carries, candle from crates.io."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LLAMA = "0.3.36"  # of llama-cpp-python
TARGETS = ["llama-bench", "llama-batched-bench", "llama-completion", "llama-quantize"]
# What the processor has, or AVX2 and no more whatever it has.
VARIANTS = {
    "native": ["-DGGML_NATIVE=ON"],
    "avx2": [
        "-DGGML_NATIVE=OFF",
        *(f"-DGGML_{set_}=ON" for set_ in ("SSE42", "AVX", "AVX2", "FMA", "F16C", "BMI2")),
        *(f"-DGGML_{set_}=OFF" for set_ in ("AVX512", "AVX512_VNNI", "AVX512_BF16", "AVX_VNNI")),
    ],
}


def _do(command, **options):
    command = [str(word) for word in command]
    print("+", " ".join(command), flush=True)
    # Programs of Python packages, such as cmake, lie beside this Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **options.pop("env", {})}
    if subprocess.run(command, env=env, **options).returncode != 0:
        raise SystemExit(f"{command[0]} failed")


def _llama_source(work):
    source = work / f"llama_cpp_python-{LLAMA}" / "vendor" / "llama.cpp"
    if source.exists():
        return source
    work.mkdir(parents=True, exist_ok=True)
    archive = work / f"llama_cpp_python-{LLAMA}.tar.gz"
    if not archive.exists():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        _do([*pip, "-d", work, f"llama-cpp-python=={LLAMA}"])
    with tarfile.open(archive) as tar:
        tar.extractall(work, filter="data")
    # It names a repository that is not there: CMake would look for its commit at every build, anew.
    git = source / ".git"
    if git.is_dir():
        shutil.rmtree(git)
    else:
        git.unlink(missing_ok=True)
    return source


def llama_cpp(work, variant, jobs):
    """The folder with its programs, built if they are not there."""
    build = work / f"llama.cpp-{variant}"
    programs = build / "bin"
    if all((programs / name).exists() for name in TARGETS):
        return programs
    source = _llama_source(work)
    off = ["GGML_CCACHE", "LLAMA_USE_PREBUILT_UI", "LLAMA_BUILD_APP", "LLAMA_OPENSSL"]
    options = ["-DCMAKE_BUILD_TYPE=Release", *VARIANTS[variant], *(f"-D{o}=OFF" for o in off)]
    _do(["cmake", "-S", source, "-B", build, "-G", "Ninja", *options], stdout=subprocess.DEVNULL)
    _do(["cmake", "--build", build, "-j", jobs, "--target", *TARGETS])
    return programs


def candle(work, jobs):
    """The program of the folder `candle`, built for this processor."""
    target = work / "candle"
    program = target / "release" / "candle-bench"
    env = {"CARGO_TARGET_DIR": str(target), "RUSTFLAGS": "-C target-cpu=native"}
    _do(["cargo", "build", "--release", "--locked", "-j", jobs], cwd=HERE / "candle", env=env)
    return program


def commit(root):
    """What is checked out, `-dirty` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip() or "unknown"


def gristmill(root, jobs):
    """The released binary: it chooses the instruction set when it starts."""
    command = ["cargo", "build", "--release", "-p", "gristmill", "-j", jobs]
    _do(command, cwd=root, env={"GRISTMILL_COMMIT": commit(root)})
    return Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "release" / "gristmill"
