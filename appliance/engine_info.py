"""`ghostnote engine info`: what a bundle is, every byte of it checked. Runs in: the main process."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from engines.bundle import Bundle, locate


def engine_info(address: str, console: Console) -> int:
    """Print what the bundle says of itself. Raises BundleError if any byte of it is wrong."""
    path = locate(address)
    bundle = Bundle.open(path)
    bundle.verify()
    manifest = bundle.manifest
    spec = manifest.spec
    table = Table(title=f"{path}: every byte is as it was packed", title_justify="left", show_header=False, box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows = {
        "name": f"{manifest.name}, release {manifest.release} (number {manifest.number}), {manifest.created}",
        "author": manifest.author,
        "digest": bundle.digest,
        "signature": "nobody has signed it" if bundle.signature is None else "signed",
        "kind": manifest.kind,
        "block": f"{spec.block_frames} frames ({1000 * spec.block_frames / spec.sample_rate:.0f} ms) at {spec.sample_rate} Hz",
        "codec delay": f"{spec.codec_delay_frames} frames",
        "steps": f"{spec.steps} (at most {spec.max_steps})",
        "prompts": ", ".join(spec.prompts),
        "licences": "; ".join(f"{one.covers}: {one.name}" for one in manifest.licences),
        "memory": f"{manifest.memory_bytes / 1e6:.0f} MB" if manifest.memory_bytes else "not measured",
        "size": f"{path.stat().st_size / 1e6:.2f} MB",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    for entry in manifest.files:
        table.add_row("file", f"{entry.path}  {entry.role.value}, {entry.size} bytes  {entry.sha256[:16]}")
    console.print(table, highlight=False, markup=False)
    return 0
