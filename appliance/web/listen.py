"""Where the page can be reached: this machine itself, the network interface of its own hotspot if one is named, and nowhere else.

The hotspot's socket is bound to the interface, not to an address, which may come later and change. (Linux 5.7 and newer lets any user
do that.)

Runs in: `ghostnote web`.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from pathlib import Path

from appliance.config import WebConfig

LOOPBACK, LOOPBACK_INTERFACE = "127.0.0.1", "lo"
ANY = "0.0.0.0"
_SIOCGIFADDR = 0x8915
_NAME_BYTES = 15


class WebError(Exception):
    """The page can't be served: one line that says what to do."""


def open_sockets(config: WebConfig, address: str = "") -> list[socket.socket]:
    """`address`, as HOST:PORT, stands for all that is configured. Raises WebError."""
    if address:
        host, port = _parse(address)
        return [_open(host, port)]
    sockets = [_open(LOOPBACK, config.port, LOOPBACK_INTERFACE if config.interface else "")]
    if config.interface:
        sockets.append(_open(ANY, config.port, config.interface))
    return sockets


def addresses(config: WebConfig) -> list[str]:
    """HOST:PORT of all that is configured, as far as the interface has an address."""
    hosts = [LOOPBACK, *filter(None, [interface_address(config.interface)])]
    return [f"{host}:{config.port}" for host in hosts]


def interface_address(name: str) -> str:
    """Empty where there is none."""
    if not 0 < len(name.encode()) <= _NAME_BYTES:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, _SIOCGIFADDR, struct.pack("256s", name.encode()))
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


def _open(host: str, port: int, interface: str = "") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if interface:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        one.bind((host, port))
        one.listen()
    except OSError as error:
        one.close()
        if interface and not Path("/sys/class/net", interface).exists():
            raise WebError(f"there is no network interface {interface!r}: `ip link` lists them for [web] interface") from None
        raise WebError(f"{host}:{port} can't be served ({error.strerror}): set another [web] port, or end what has it") from None
    return one


def _parse(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535 or not host:
        raise WebError(f"{address!r} is no address: write HOST:PORT, such as 127.0.0.1:8730")
    return host.strip("[]"), int(port)
