"""Mutants at the door, in a process of its own that is watched: what it opens to write, and the most memory it ever has.

    python -m tests.trust.fuzz FOLDER FIRST COUNT      prints one line of JSON; in FOLDER are toy.ghost and keys

Each mutant comes three times: with the signature that the bundle had; without one; and without one, but with the consent of a person. The
first is refused, unless nothing that is signed has changed and it is the same bundle. The second is refused. With consent only the checks
behind the signature are left: what they let through is another bundle that does no harm, such as one with another author.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from appliance.trust import admit
from engines.bundle import Bundle, BundleError
from tests.trust.mutate import Parts, mutant

WRITING = {
    *("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown"),
    *("os.utime", "os.mkfifo", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "socket.connect"),
}
O_WRITES = 0o3 | 0o100 | 0o1000 | 0o2000


@dataclass
class Watch:
    """Python says of every call that changes something outside of the process; while `on`, none may come."""

    on: bool = False
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and (event in WRITING or (event == "open" and isinstance(arguments[2], int) and arguments[2] & O_WRITES)):
            self.seen.append(f"{event} {arguments[:1]}")


def peak_bytes() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def parts_of(bundle: Bundle) -> Parts:
    return Parts(dict(bundle.manifest.facts), {e.path: bundle.read(e.path) for e in bundle.manifest.files}, bundle.signature)


def attempt(path: Path, data: bytes, keys: Path, watch: Watch, consent: bool = False) -> str | None:
    """The digest that was admitted, or None where the door held. Anything but a BundleError of one line is a failure."""
    path.write_bytes(data)
    watch.on = True
    try:
        return admit(path, keys, consent).digest
    except BundleError as error:
        assert "\n" not in str(error) and len(str(error)) < 2_000, str(error)[:300]
        return None
    finally:
        watch.on = False


def run(folder: Path, first: int, count: int) -> dict[str, Any]:
    watch = Watch()
    sys.addaudithook(watch)
    bundle, keys = Bundle.open(folder / "toy.ghost"), folder / "keys"
    parts, alone = parts_of(bundle), replace(parts_of(bundle), signature=None)
    assert admit(bundle.path, keys).digest == bundle.digest
    counts: Counter[str] = Counter()
    failures: list[str] = []
    path, begun = folder / "mutant.ghost", time.process_time()
    for seed in range(first, first + count):
        try:
            level, data = mutant(seed, parts)
            counts[level] += 1
            found = attempt(path, data, keys, watch)
            counts["the same bundle"] += found == bundle.digest
            if found not in (None, bundle.digest):
                failures.append(f"mutant {seed} ({level}) was admitted")
            _, bare = mutant(seed, alone)
            if attempt(path, bare, keys, watch) is not None:
                failures.append(f"mutant {seed} ({level}) was admitted unsigned")
            counts["harmless, with consent"] += attempt(path, bare, keys, watch, consent=True) is not None
        except Exception:
            failures.append(f"mutant {seed}: {traceback.format_exc()[-800:]}")
    left = sorted(one.name for one in folder.iterdir())
    facts = {"mutants": count, "failures": failures[:5], "failed": len(failures), "wrote": watch.seen[:5], "peak_bytes": peak_bytes()}
    return {**facts, "left": left, "cpu_seconds": round(time.process_time() - begun, 1), "counts": dict(counts)}


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
