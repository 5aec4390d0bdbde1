use super::*;

const GOOD: &str = include_str!("../linux.toml");
const GOOD_ARM64: &str = include_str!("../linux-arm64.toml");

fn check(text: &str) -> Result<Config, Diagnostics> {
    parse(Path::new("test.toml"), text, &Overrides::default())
}

/// The error for the good file with `from` replaced by `to`; its line must be that of `to`.
#[track_caller]
fn error(from: &str, to: &str) -> String {
    error_in(GOOD, from, to)
}

#[track_caller]
fn error_in(good: &str, from: &str, to: &str) -> String {
    assert!(good.contains(from), "{from}");
    let text = good.replacen(from, to, 1);
    let errors = check(&text).unwrap_err();
    assert_eq!(errors.0.len(), 1, "{errors}");
    let shown = errors.to_string();
    assert!(shown.starts_with("test.toml") && shown.contains("\n  help: "), "{shown}");
    if let Place::Line(_, line) = errors.0[0].place {
        let last = to.lines().last().unwrap();
        assert!(text.lines().nth(line - 1).unwrap().contains(last), "{shown}");
    }
    shown
}

#[test]
fn the_systems_that_come_with_it() {
    for file in ["linux.toml", "two-linux.toml", "linux-arm64.toml", "two-linux-arm64.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let config = load(&path, &Overrides::default()).unwrap_or_else(|e| panic!("{e}"));
        config.system.check().unwrap();
        assert_eq!(config.files.len(), 2);
    }
}

#[test]
fn shape() {
    assert!(
        error("memory = \"1 GiB\"", "memory = \"1 GiB\"\ncolour = 1")
            .contains("unknown field `colour`")
    );
    assert!(error("[[vm]]", "[[cm]]").contains("unknown field `cm`"));
    assert!(error("cpus = 1", "cpus = \"one\"").contains("invalid type"));
    assert!(error("cpus = 1", "cpus = -1").contains("write a whole number"));
    assert!(error("[[console]]", "[console]").contains("two pairs of brackets"));
    assert!(
        check(&GOOD.replace("cpus = 1", ""))
            .unwrap_err()
            .to_string()
            .contains("missing field `cpus`")
    );
    assert!(check("vm = [").unwrap_err().to_string().contains("test.toml:1: "));
    assert!(check("").unwrap_err().to_string().contains("missing field `machine`"));
}

#[test]
fn values() {
    assert!(error("memory = \"1 GiB\"", "memory = \"1 GB\"").contains("no size"));
    assert!(error("memory = \"512 MiB\"", "memory = \"513 MiB\"").contains("multiple of 2 MiB"));
    assert!(error("memory = \"512 MiB\"", "memory = \"32 MiB\"").contains("from 64 MiB"));
    assert!(error("memory = \"512 MiB\"", "memory = \"1024 GiB\"").contains("to 512 GiB"));
    assert!(error("name = \"linux\"", "name = \"My Linux\"").contains("a-z"));
    assert!(error("vcpus = [0] ", "vcpus = [] ").contains("1 to 64 vCPUs"));
    assert!(error("vcpus = [0] ", "vcpus = [0, 1] ").contains("CPU 1 does not exist"));
    assert!(error("cpus = 1", "cpus = 0").contains("0 CPUs"));
    assert!(error("on_crash = \"stop\" ", "on_crash = \"panic\" ").contains("no such policy"));
    assert!(error("uart = \"com1\"", "uart = \"com2\"").contains("no UART `com2`"));
    assert!(
        error("name = \"linux\"", "name = \"init\"").contains("taken: hypervisor and root task")
    );
    let long = format!("cmdline = \"{}\"", "x".repeat(2048));
    assert!(error("cmdline = \"console=ttyS0 quiet panic=1\"", &long).contains("2047"));
    assert!(error("console = \"serial\"", "console = \"serial\"\npriority = 200").contains("127"));
}

#[test]
fn machines() {
    let arm64 = check(GOOD_ARM64).unwrap();
    assert_eq!(arm64.machine, Machine::usual(Architecture::Arm64, 1 << 30, 1));
    assert_eq!(arm64.system.vms[0].serial, image::system::Uart::VIRT);
    let real = GOOD_ARM64.replace("\"max\"", "\"cortex-a53\"").replace("gic = 3", "gic = 2");
    let board = Board::Virt { cpu: "cortex-a53", gic: Gic::V2 };
    assert_eq!(check(&real).unwrap().machine.board, board);
    let error_arm64 = |from: &str, to: &str| error_in(GOOD_ARM64, from, to);
    assert!(error_arm64("cpu = \"max\" ", "cpu = \"z80\" ").contains("there are: max, cortex-a53"));
    assert!(error_arm64("gic = 3 ", "gic = 4 ").contains("no interrupt controller GICv4"));
    assert!(error_in(&real, "cpus = 1", "cpus = 9").contains("give it 1 to 8, or set gic = 3"));
    assert!(error_arm64("uart = \"uart0\"", "uart = \"com1\"").contains("write \"uart0\""));
    assert!(error_arm64("\"arm64\" ", "\"aarch64\" ").contains("write \"x86-64\" or \"arm64\""));
    assert!(error("cpus = 1", "cpus = 1\ngic = 3").contains("set architecture = \"arm64\""));
    // RAM starts at 1 GiB.
    let at = |at: &str| {
        error_arm64("memory = \"512 MiB\"", &format!("memory = \"512 MiB\"\nmemory_at = \"{at}\""))
    };
    assert!(at("512 MiB").contains("its RAM is at 0x40000000-0x80000000"));
}

#[test]
fn rules_between_parts() {
    assert!(error("memory = \"1 GiB\"", "memory = \"512 MiB\"").contains("the system needs"));
    assert!(error("console = \"serial\"", "console = \"parallel\"").contains("there is: serial"));
    assert!(error("name = \"linux\"", "name = \"serial\"").contains("taken: test.toml:"));
    let second = "[[console]]\nname = \"other\"\nuart = \"com1\"\n[[console]]\nname = \"serial\"\nuart = \"com1\"";
    assert!(
        error("[[console]]\nname = \"serial\"\nuart = \"com1\"", second).contains("two owners")
    );
    assert!(
        check("[machine]\nmemory = \"1 GiB\"\ncpus = 1")
            .unwrap_err()
            .to_string()
            .contains("neither")
    );
}

#[test]
fn fixed_memory() {
    let two = |a: &str, b: &str| {
        let vm = |name: &str, at: &str| {
            format!(
                "[[vm]]\nname = \"{name}\"\nmemory = \"256 MiB\"\nmemory_at = \"{at}\"\nvcpus = [0]\n\
                 kernel = \"default\"\ncmdline = \"\"\n"
            )
        };
        check(&format!("[machine]\nmemory = \"4 GiB\"\ncpus = 1\n{}{}", vm("a", a), vm("b", b)))
    };
    two("256 MiB", "512 MiB").unwrap();
    two("256 MiB", "5 GiB").unwrap();
    assert!(two("256 MiB", "510 MiB").unwrap_err().to_string().contains("overlaps that of `a`"));
    assert!(two("256 MiB", "2 GiB").unwrap_err().to_string().contains("is not all RAM"));
    assert!(two("256 MiB", "1 MiB").unwrap_err().to_string().contains("from 16 MiB"));
}

#[test]
fn guest_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("system.toml");
    std::fs::write(&path, GOOD.replace("kernel = \"default\"", "kernel = \"vmlinuz\"")).unwrap();
    let shown = || load(&path, &Overrides::default()).unwrap_err().to_string();
    assert!(
        shown().contains("system.toml:17: ") && shown().contains("No such file"),
        "{}",
        shown()
    );
    std::fs::write(dir.path().join("vmlinuz"), "text").unwrap();
    assert!(shown().contains("too short for a kernel"), "{}", shown());
    let overrides = Overrides { kernel: Some("/nonexistent".into()), ..Overrides::default() };
    let shown = load(&path, &overrides).unwrap_err().to_string();
    assert!(shown.starts_with("--kernel: /nonexistent cannot be read"), "{shown}");
    let overrides = Overrides { cmdline: Some("a\nb".into()), ..Overrides::default() };
    assert!(load(&path, &overrides).unwrap_err().to_string().starts_with("--cmdline: "));
    let missing = load(Path::new("nowhere.toml"), &Overrides::default()).unwrap_err().to_string();
    assert!(missing.starts_with("nowhere.toml: cannot be read"), "{missing}");
}

#[test]
fn two_vms_share_a_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("two-linux.toml");
    let overrides = Overrides { initrd: Some("/dev/null".into()), ..Overrides::default() };
    let errors = load(&path, &overrides).unwrap_err().to_string();
    assert!(
        errors.contains("--initrd: /dev/null cannot be read: it is a device or a pipe"),
        "{errors}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    let overrides = Overrides { initrd: Some(file.path().into()), ..Overrides::default() };
    let errors = load(&path, &overrides).unwrap_err().to_string();
    assert!(errors.contains("the initial RAM disk is empty"), "{errors}");
}

/// A system of VMs with these lines beside those that all have.
fn vms(machine: &str, count: usize, lines: &str) -> String {
    let vm = |number| {
        format!(
            "[[vm]]\nname = \"vm{number}\"\nkernel = \"default\"\ncmdline = \"\"\nconsole = \"serial\"\n{lines}\n"
        )
    };
    let console = "[[console]]\nname = \"serial\"\nuart = \"com1\"\n";
    format!("[machine]\n{machine}\n{console}{}", (0..count).map(vm).collect::<String>())
}

#[test]
fn the_kernel_gets_what_the_quotas_add_up_to() {
    let needed = |text: &str| {
        let config = check(text).unwrap_or_else(|e| panic!("{e}"));
        kernel_memory::needed(&config.system, config.machine.cpus) >> 20
    };
    assert_eq!(needed(GOOD), 8);
    // 1 MiB, 8 for the tables of 4 GiB, 1 for the console, and what kernel and root task need.
    let large = "memory = \"4 GiB\"\nvcpus = [0]";
    assert_eq!(needed(&vms("memory = \"5 GiB\"\ncpus = 1", 1, large)), 12);
    let many = "memory = \"64 MiB\"\nvcpus = [0]";
    assert!(needed(&vms("memory = \"2 GiB\"\ncpus = 1", 12, many)) > 12);
    let largest = "memory = \"512 GiB\"\nvcpus = [0]";
    let errors = check(&vms("memory = \"1024 GiB\"\ncpus = 1", 1, largest)).unwrap_err();
    assert!(errors.to_string().contains("of kernel memory; 1 GiB are possible"), "{errors}");
}

#[test]
fn servers_and_monitors_have_memory_for_all_that_they_serve() {
    let memory = |count, vcpus: &str| {
        let lines = format!("memory = \"64 MiB\"\nvcpus = {vcpus}");
        let config = check(&vms("memory = \"4 GiB\"\ncpus = 40", count, &lines)).unwrap();
        let (server, vm) = (&config.system.servers[0], &config.system.vms[0]);
        (server.compartment.memory.bytes() >> 10, vm.monitor.memory.bytes() >> 10)
    };
    assert_eq!(memory(1, "[0, 0, 0, 0]"), (512, 1024));
    assert_eq!(memory(16, "[3]"), (128 + 16 * 48, 1024));
    let all: Vec<u32> = (0..40).collect();
    assert_eq!(memory(1, &format!("{all:?}")), (128 + 32 + 640, 256 + 40 * 48));
}
