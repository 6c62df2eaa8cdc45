//! Who can have written a file? Code is taken from root and from this user, and from nobody else.

use anyhow::{Context, Result, bail};
use rustix::{fs::getxattr, io::Errno};
use std::{
    fs::{File, Metadata},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// Opens a file that nobody but root and this user can have written, nor any directory above it. A link is followed,
/// and held to the same rules at both ends.
pub fn open_trusted(path: &Path) -> Result<File> {
    let real = path.canonicalize()?;
    for place in [path, &real] {
        let dir = place.parent().unwrap_or(Path::new("/")).canonicalize().context("its directory")?;
        for above in dir.ancestors() {
            check_writers(&format!("the directory {}", above.display()), &std::fs::metadata(above)?, has_acl(above))?;
        }
    }
    // A FIFO would wait for a writer.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(nonblock).open(&real)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        bail!("it is not a regular file");
    }
    check_writers("the file", &metadata, has_acl(&real))?;
    Ok(file)
}

/// Has it an access control list, acl(5)? The group's bits are then the most that anybody on the list may do.
fn has_acl(path: &Path) -> bool {
    !matches!(getxattr(path, "system.posix_acl_access", &mut [0u8; 0]), Err(Errno::NODATA | Errno::NOTSUP))
}

fn check_writers(what: &str, metadata: &Metadata, has_acl: bool) -> Result<()> {
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != me {
        bail!("{what} belongs to user {}, neither root nor you", metadata.uid());
    }
    let sticky_dir = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
    if metadata.mode() & 0o002 != 0 && !sticky_dir {
        bail!("{what} may be written by everybody (`chmod o-w` it)");
    }
    let own_group = || !has_acl && metadata.uid() == me && is_own_group(metadata.gid(), me);
    if metadata.mode() & 0o020 != 0 && !sticky_dir && !own_group() {
        let who =
            if has_acl { "whom its access control list names".into() } else { format!("group {}", metadata.gid()) };
        bail!("{what} may be written by {who} (`chmod g-w` it)");
    }
    Ok(())
}

/// Is the user alone in this group? Where the umask is 002 everybody has one, and it may write all their directories.
fn is_own_group(gid: u32, uid: u32) -> bool {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    alone_in(&gid.to_string(), &uid.to_string(), &read("/etc/passwd"), &read("/etc/group"))
}

/// A group that is not in these files is nobody's own: who is in it cannot be known here.
fn alone_in(gid: &str, uid: &str, passwd: &str, group: &str) -> bool {
    let rows = |text| str::lines(text).map(|line| line.split(':').collect::<Vec<_>>());
    let groups: Vec<_> = rows(group).filter(|group| group.get(2) == Some(&gid)).collect();
    if groups.is_empty() {
        return false;
    }
    let mut members = groups
        .iter()
        .filter_map(|group| group.get(3))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty());
    let is_me = |user: &[&str]| user.get(2) == Some(&uid);
    let by_primary_group = rows(passwd).filter(|user| user.get(3) == Some(&gid)).all(|user| is_me(&user));
    by_primary_group && members.all(|name| rows(passwd).any(|user| user[0] == name && is_me(&user)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_ones_own_where_nobody_else_is_in_it() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:\nbob:x:1001:1001::/:\ncat:x:1002:100::/:\n";
        let group = "root:x:0:\nusers:x:100:\nann:x:1000:\nbob:x:1001:bob\nteam:x:2000:ann,bob\nsolo:x:2001:ann\n";
        for (gid, uid, own) in [
            ("1000", "1000", true),
            ("1001", "1001", true),
            ("2001", "1000", true),
            ("100", "1000", false),
            ("2000", "1000", false),
            ("1001", "1000", false),
            ("4242", "1000", false),
        ] {
            assert_eq!(alone_in(gid, uid, passwd, group), own, "group {gid}, user {uid}");
        }
    }
}
