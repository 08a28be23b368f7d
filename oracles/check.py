"""Runs `gristmill logits` over what make.py wrote and compares; see README.md."""
import argparse
import collections
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

import numpy as np

if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("--command", default="gristmill")
    p.add_argument("--only", help="families, with commas between")
    p.add_argument("--tolerance", type=float, default=1e-3)
    a = p.parse_args()
    worst = collections.defaultdict(dict)
    failed = 0
    for folder in sorted(d for d in a.folder.iterdir() if (d / "prompts.json").exists()):
        family, seed = folder.name.rsplit("-", 1)
        if a.only and family not in a.only.split(","):
            continue
        for file in ["", "model-f32.gguf", "model-f16.gguf"]:
            if not (folder / file).exists():
                continue
            far, said = 0.0, ""
            for i, ids in enumerate(json.loads((folder / "prompts.json").read_text())):
                with tempfile.TemporaryDirectory() as t:
                    out = f"{t}/logits.npy"
                    command = [*shlex.split(a.command), "logits", "-q", "-o", out, "--activations", "f32"]
                    command += ["--ids", ",".join(map(str, ids)), str(folder / file)]
                    done = subprocess.run(command, capture_output=True, text=True)
                    if done.returncode:
                        far, said = float("inf"), done.stderr.strip()
                        break
                    got = np.load(out)
                want = np.load(folder / f"logits_{i}.npy")
                far = max(far, float(np.abs(got - want).max()) if got.shape == want.shape else float("inf"))
            ok = far < a.tolerance
            failed += not ok
            print(f"{'ok  ' if ok else 'FAIL'} {folder.name:20s} {file or 'safetensors':16s} {far:.2e} {said}", flush=True)
            kind = file or "safetensors"
            worst[family][kind] = max(worst[family].get(kind, 0.0), far)
    print("\nworst of each family")
    for family, files in worst.items():
        print(f"{family:16s} " + "  ".join(f"{k} {v:.2e}" for k, v in files.items()))
    sys.exit(1 if failed or not worst else 0)
