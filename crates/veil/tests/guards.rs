//! CRIU asks for the guard pages of all memory at once, from behind what was told, until it has come to the end: asked here by another program, of itself, which has one.
#![allow(clippy::unwrap_used)]

use std::{path::Path, process::Command};

/// Installs a guard page, says in the table whether its mapping may have one, and asks. Prints whether it was told of it; nothing if this kernel has none (Linux 6.15 tells them).
const ASK: &str = "import ctypes, mmap, os, struct, sys\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    memory = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n\
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))\n\
    if libc.madvise(ctypes.c_void_p(start + (5 << 20)), 4096, 102): sys.exit()\n\
    open(os.environ['GODWIT_VEIL'], 'wb').write(struct.pack('4Q', os.getpid(), start, start + (8 << 20), int(sys.argv[1])))\n\
    pagemap = os.open(f'/proc/{os.getpid()}/pagemap', os.O_RDONLY)\n\
    end, found, told = (1 << 47) - 4096, (ctypes.c_uint64 * 300)(), []\n\
    words = (ctypes.c_uint64 * 12)(96, 0, 0, end, 0, ctypes.addressof(found), 100, 0, 0, 256, 0, 256)\n\
    while words[4] != end:\n\
    \twords[2] = words[4]\n\
    \tcount = libc.ioctl(pagemap, ctypes.c_ulong(0xc0606610), words)\n\
    \tif count < 0: sys.exit()\n\
    \ttold += [found[3 * at] - start for at in range(count)]\n\
    print(5 << 20 in told)\n";

#[test]
fn guards_are_looked_for_where_one_may_be() {
    let own = std::env::current_exe().unwrap();
    let veil = own.ancestors().nth(3).unwrap_or(Path::new("/")).join("runtime/libgodwit_veil.so");
    if !veil.exists() {
        return eprintln!("skipped: the library is not built (make build)");
    }
    for (unguarded, sees) in [("0", "True"), ("1", "False")] {
        let mut asker = Command::new("python3");
        asker.args(["-c", ASK, unguarded]).env("LD_PRELOAD", &veil).env(godwit_veil::VARIABLE, Path::new(env!("CARGO_TARGET_TMPDIR")).join("guards.veil"));
        let output = asker.output().unwrap();
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if said.is_empty() && output.status.success() {
            return eprintln!("skipped: this kernel does not tell guard pages (Linux 6.15)");
        }
        assert_eq!(said.trim(), sees, "{errors}");
    }
}
