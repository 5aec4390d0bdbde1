//! What is wrong gets one clear message with cause, place and remedy, and a non-zero status.

use std::fs;
use std::path::Path;
use std::time::Duration;

use configs::Architecture;

use crate::support::{StandIns, bulkhead, finish, run};

/// The command fails with this status and says all of this.
#[track_caller]
fn fails(arguments: &[&str], status: i32, says: &[&str]) {
    let ended = run(arguments);
    assert_eq!(ended.status, Some(status), "{arguments:?}: {ended:?}");
    for text in says {
        assert!(
            ended.stderr.contains(text),
            "{arguments:?} does not say {text:?}: {}",
            ended.stderr
        );
    }
}

fn good() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/linux.toml"))
        .unwrap()
}

#[test]
fn the_systems_that_come_with_it_are_right() {
    for file in [
        "configs/linux.toml",
        "configs/two-linux.toml",
        "configs/linux-arm64.toml",
        "configs/two-linux-arm64.toml",
    ] {
        let ended = run(&["check", file]);
        assert_eq!(ended.status, Some(0), "{}", ended.stderr);
        assert!(ended.stdout.contains("VMs: "), "{}", ended.stdout);
    }
}

#[test]
fn descriptions() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("system.toml");
    let path = file.to_str().unwrap();
    let wrong = |from: &str, to: &str, says: &[&str]| {
        assert!(good().contains(from));
        fs::write(&file, good().replacen(from, to, 1)).unwrap();
        for command in ["check", "run"] {
            fails(&[command, path], 2, &[says, &["system.toml:", "help: "]].concat());
        }
    };
    wrong("[machine]", "[machine]\ncolour = 3", &["unknown field `colour`"]);
    wrong("[machine]", "[machine", &["help: correct the TOML"]);
    wrong("memory = \"1 GiB\"", "memory = \"256 MiB\"", &["the system needs"]);
    wrong("kernel = \"default\"", "kernel = \"nowhere\"", &["nowhere cannot be read"]);
    wrong("[[vm]]", "[[console]]\nname = \"b\"\nuart = \"com1\"\n[[vm]]", &["two owners"]);
    wrong("vcpus = [0]", "vcpus = [7]", &["CPU 7 does not exist"]);
    wrong(
        "[[vm]]",
        "[[native]]\nname = \"n\"\nprogram = \"monitor\"\n[[vm]]",
        &["no program `monitor` that runs by itself"],
    );
    fails(&["run", "nowhere.toml"], 2, &["nowhere.toml: cannot be read", "help: "]);
    fails(&["check", "/dev/null"], 2, &["missing field `machine`"]);
}

#[test]
fn guest_files() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = fs::read(bulkhead::guest::kernel(Architecture::X86_64).unwrap()).unwrap();
    let with = |option: &str, name: &str, bytes: &[u8], says: &[&str]| {
        let file = dir.path().join(name);
        fs::write(&file, bytes).unwrap();
        fails(
            &["check", "configs/linux.toml", option, file.to_str().unwrap()],
            2,
            &[says, &[option, "help: "]].concat(),
        );
    };
    with("--kernel", "empty", b"", &["the kernel is empty"]);
    with("--kernel", "text", &[b'x'; 70_000], &["no Linux kernel"]);
    with("--kernel", "truncated", &kernel[..kernel.len() / 2], &["truncated"]);
    let mut arm = vec![0; 70_000];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    with("--kernel", "arm", &arm, &["for arm64", "bzImage"]);
    let x86 = dir.path().join("x86");
    fs::write(&x86, &kernel).unwrap();
    let arguments = ["run", "--machine", "qemu-arm64", "--kernel", x86.to_str().unwrap()];
    fails(&arguments, 2, &["--kernel: ", "for x86-64", "arm64 Image"]);
    with("--initrd", "empty-initrd", b"", &["empty"]);
    with("--initrd", "text-initrd", b"hello", &["no initial RAM disk"]);
    let initrd = bulkhead::guest::initrd(Architecture::X86_64).unwrap();
    with("--initrd", "truncated-initrd", &initrd[..initrd.len() / 2], &["truncated"]);
    let mut oversized = vec![0; 300 << 20];
    oversized[..2].copy_from_slice(b"\x1f\x8b");
    with("--initrd", "oversized", &oversized, &["the VM has 512 MiB"]);
    fails(
        &["check", "configs/linux.toml", "--kernel", "/nowhere"],
        2,
        &["--kernel: /nowhere cannot be read"],
    );
}

#[test]
fn options() {
    for (config, machine, other) in [
        ("configs/linux.toml", "qemu-arm64", "configs/linux-arm64.toml"),
        ("configs/linux-arm64.toml", "bochs", "configs/linux.toml"),
    ] {
        fails(
            &["run", config, "--machine", machine],
            2,
            &["--machine: ", machine, "leave --machine out", other],
        );
    }
    fails(&["run", "--machine", "toaster"], 2, &["possible values"]);
    fails(&["run", "--disk", "x"], 1, &["no block device yet", "--initrd"]);
    fails(&["run", "--cmdline", &"x".repeat(2048)], 2, &["--cmdline: ", "2047"]);
    fails(&["run", "--until", "x"], 2, &["--headless"]);
}

#[test]
fn what_the_benchmark_cannot_do_is_said_before_it_measures() {
    for option in ["--json", "--html"] {
        let said = format!("{option}: /nowhere/file cannot be written");
        fails(&["bench", option, "/nowhere/file"], 1, &[&said]);
    }
    fails(&["bench", "--html", "/"], 1, &["--html: / cannot be written"]);
    let dir = tempfile::tempdir().unwrap();
    let (json, html) = (dir.path().join("runs"), dir.path().join("page"));
    fs::write(&json, "\nnonsense\n").unwrap();
    let files = [json.to_str().unwrap(), html.to_str().unwrap()];
    let said = format!("{}:2: this line is no run of the benchmark", files[0]);
    fails(&["bench", "--json", files[0], "--html", files[1]], 1, &[&said]);
    assert!(!html.exists());
    fails(&["bench", "--machine", "bochs", "--cycles"], 1, &["--cycles: bochs is emulated", "KVM"]);
    fails(&["bench", "--peer", "toaster"], 2, &["possible values"]);
}

#[test]
fn no_emulator_and_no_way_to_install_one() {
    let bench = bulkhead(&["bench"]).env("PATH", StandIns::new().only()).spawn();
    let ended = finish(bench.unwrap(), Duration::from_secs(60));
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("qemu-system-x86"), "{ended:?}");
    let only = |programs: StandIns, machine: &str, says: &[&str]| {
        let mut command = bulkhead(&["run", "--machine", machine]);
        let ended =
            finish(command.env("PATH", programs.only()).spawn().unwrap(), Duration::from_secs(60));
        assert_eq!(ended.status, Some(1), "{ended:?}");
        for text in says {
            assert!(ended.stderr.contains(text), "{text:?}: {}", ended.stderr);
        }
    };
    only(StandIns::new(), "qemu-x86", &["no Debian system", "qemu-system-x86"]);
    only(StandIns::new(), "qemu-arm64", &["no Debian system", "qemu-system-arm"]);
    only(StandIns::new(), "bochs", &["no Debian system", "bochs", "grub-pc-bin", "xorriso"]);
    // An apt that knows no packages and reaches no archive; for who is not root, a sudo that agrees to anything.
    let apt = StandIns::new()
        .add("dpkg-deb", "exit 1")
        .add("apt-cache", "exit 0")
        .add("apt-get", "echo 'no route to the archive' >&2; exit 100")
        .add("sudo", "exit 0");
    only(apt, "qemu-x86", &["sudo apt-get install qemu-system-x86"]);
}

#[test]
fn what_cannot_be_written_is_no_crash() {
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let mut check = bulkhead(&["check", "configs/linux.toml"]);
    let ended = finish(check.stdout(full()).spawn().unwrap(), Duration::from_secs(60));
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("the output cannot be written"), "{ended:?}");
    let mut check = bulkhead(&["check", "nowhere.toml"]);
    let ended = finish(check.stderr(full()).spawn().unwrap(), Duration::from_secs(60));
    assert_eq!(ended.status, Some(2), "{ended:?}");
}

#[test]
fn files_without_an_end() {
    fails(&["check", "/dev/zero"], 2, &["longer than 1 MiB"]);
    fails(
        &["check", "configs/linux.toml", "--initrd", "/dev/zero"],
        2,
        &["--initrd: /dev/zero cannot be read", "not a file"],
    );
}

#[test]
fn help_says_how_a_run_is_ended() {
    let help = run(&["run", "--help"]).stdout;
    for text in ["Ctrl-A x ends it", "Ctrl-A a sends", "Ctrl-T n"] {
        assert!(help.contains(text), "{help}");
    }
}
