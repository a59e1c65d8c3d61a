//! Programs that refuse to run as root run as the user `nobody` then.

use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
};

const NOBODY: u32 = 65534;

/// Whether the test runs as root.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// A program of the user who runs the test or, if that is root, of `nobody`.
pub(crate) fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    // A folder that `nobody` may enter; cargo's own may be closed to it.
    command.current_dir("/").env("LC_ALL", "C");
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Makes the user of [`unprivileged`] the owner of a folder or file.
pub(crate) fn give_to_nobody(path: &Path) -> io::Result<()> {
    if is_root() { chown(path, Some(NOBODY), Some(NOBODY)) } else { Ok(()) }
}
