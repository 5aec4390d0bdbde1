//! Content of the default initial RAM disk: Debian's static busybox and these files.

/// What an entry of the initial RAM disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Folder,
    /// An executable or, with `false`, a plain file with this text.
    Text(&'static str, bool),
    /// A symbolic link to this path.
    Link(&'static str),
    /// A character device with this major and minor number.
    Device(u32, u32),
}

/// Path at which the busybox binary is put.
pub const BUSYBOX: &str = "bin/busybox";

/// Everything but busybox and the links to it, parents before children.
pub const ENTRIES: &[(&str, Entry)] = &[
    ("bin", Entry::Folder),
    ("dev", Entry::Folder),
    ("etc", Entry::Folder),
    ("mnt", Entry::Folder),
    ("proc", Entry::Folder),
    ("root", Entry::Folder),
    ("sys", Entry::Folder),
    ("tmp", Entry::Folder),
    ("sbin", Entry::Link("bin")),
    ("usr", Entry::Folder),
    ("usr/bin", Entry::Link("../bin")),
    ("usr/sbin", Entry::Link("../bin")),
    // The kernel opens it before anything can be mounted over /dev.
    ("dev/console", Entry::Device(5, 1)),
    ("init", Entry::Link("bin/busybox")),
    ("etc/inittab", Entry::Text(include_str!("../initramfs/inittab"), false)),
    ("etc/rc", Entry::Text(include_str!("../initramfs/rc"), true)),
    ("etc/shell", Entry::Text(include_str!("../initramfs/shell"), true)),
    ("etc/profile", Entry::Text(include_str!("../initramfs/profile"), false)),
    ("etc/passwd", Entry::Text("root:x:0:0:root:/root:/bin/sh\n", false)),
    ("etc/group", Entry::Text("root:x:0:\n", false)),
];

/// Busybox's programs that get a link in `/bin`, separated by white space.
pub const APPLETS: &str = "
    [ arch ash awk base64 basename bc bunzip2 bzcat bzip2 cat chgrp chmod chown chroot chvt
    clear cmp cp cpio cttyhack cut date dc dd devmem df diff dirname dmesg dos2unix du echo ed
    egrep env expand expr factor fallocate false fgrep find fold free getopt grep groups gunzip
    gzip halt head hexdump hostid hostname hwclock id ifconfig init insmod ionice ip kill
    killall less link ln logger login ls lsmod lzma md5sum mkdir mkfifo mknod mkswap mktemp
    modinfo modprobe more mount mv nc netstat nl nproc nslookup od paste patch pidof ping
    poweroff printf ps pwd readlink realpath reboot renice reset rev rm rmdir rmmod route sed
    seq setsid sh sha1sum sha256sum sha512sum shred shuf sleep sort stat strings stty
    switch_root sync sysctl tac tail tar taskset tee test time timeout top touch tr traceroute
    true truncate tty udhcpc umount uname uncompress unexpand uniq unix2dos unlink unlzma unxz
    unzip uptime usleep uudecode uuencode vi watch wc wget which whoami xargs xxd xz xzcat yes
    zcat
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first() {
        for (i, (path, _)) in ENTRIES.iter().enumerate() {
            if let Some((parent, _)) = path.rsplit_once('/') {
                let known = ENTRIES[..i].iter().any(|(p, e)| *p == parent && *e == Entry::Folder);
                assert!(known, "{path}");
            }
        }
    }

    #[test]
    fn no_name_is_taken_twice() {
        let mut names: Vec<String> =
            APPLETS.split_ascii_whitespace().map(|a| format!("bin/{a}")).collect();
        names.extend(ENTRIES.iter().map(|(path, _)| path.to_string()));
        names.push(BUSYBOX.into());
        names.sort();
        assert!(names.windows(2).all(|w| w[0] != w[1]));
    }
}
