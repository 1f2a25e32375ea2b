"""What the machine has, or leaves to this process."""

from contextlib import suppress
from pathlib import Path

CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # versions 2 and 1


def memory() -> int:
    """Bytes that this process can have at most: the machine's, or what a container or a limit (ulimit) leaves of it."""
    import psutil

    found = [int(psutil.virtual_memory().total), *_limits()]
    for path in CGROUPS:
        with suppress(OSError, ValueError):  # "max", or not this system's
            found.append(int(path.read_text()))
    return min(found)


def _limits() -> list[int]:
    """The limits of addresses and of data, where the system has them."""
    try:
        import resource
    except ImportError:  # Windows
        return []
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return [limit for limit in limits if limit != resource.RLIM_INFINITY]


def in_words(count: int) -> str:
    """Bytes in GiB, or MiB below one."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
