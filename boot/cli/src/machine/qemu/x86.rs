//! The q35 machine: SVM emulated by TCG, or the host's extension through nested KVM.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use super::{Hardware, Settings, tcg};
use crate::child::{self, Group};
use crate::progress;

/// The machine.
pub fn hardware(qemu: &Path, settings: &Settings<'_>) -> Hardware {
    let accelerator = Accelerator::choose(qemu, settings);
    let mut options = vec!["-M".into(), "q35".into()];
    options.extend(accelerator.options(settings).map(String::from));
    Hardware { options, emulated: accelerator == Accelerator::Tcg }
}

/// What executes the machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accelerator {
    Tcg,
    Kvm,
}

impl Accelerator {
    fn choose(qemu: &Path, settings: &Settings<'_>) -> Accelerator {
        let possible = settings.virtualization && !settings.count_instructions;
        if possible && nested_kvm(qemu) { Accelerator::Kvm } else { Accelerator::Tcg }
    }

    /// The options for accelerator and CPU.
    fn options(self, settings: &Settings<'_>) -> impl Iterator<Item = &'static str> {
        // `max` has SVM; its other features are what TCG can do.
        let (accelerator, cpu) = match self {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Tcg if settings.virtualization => (tcg(settings), "max"),
            Accelerator::Tcg => (tcg(settings), "max,-svm"),
        };
        let counting = settings.count_instructions.then_some(["-icount", "shift=0,sleep=off"]);
        ["-accel", accelerator, "-cpu", cpu].into_iter().chain(counting.into_iter().flatten())
    }
}

/// The model of this computer's processor, as Linux names it.
pub fn host_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let model = lines.find(|(name, _)| name.trim() == "model name");
    model.map_or("unknown", |(_, model)| model.trim()).to_owned()
}

/// Whether KVM runs here and offers virtualisation to its guests. Where the CPU shows no extension, a
/// /dev/kvm is none that could; where it does, only a trial tells.
fn nested_kvm(qemu: &Path) -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let extension = flags
            .lines()
            .filter(|l| l.starts_with("flags"))
            .any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"));
        let nested = ["intel", "amd"].iter().any(|vendor| {
            let parameter = format!("/sys/module/kvm_{vendor}/parameters/nested");
            std::fs::read_to_string(parameter).is_ok_and(|value| matches!(value.trim(), "Y" | "1"))
        });
        let usable = || File::options().read(true).write(true).open("/dev/kvm").is_ok();
        // The hypervisor refuses CPUs from which programs can read its memory.
        let meltdown = std::fs::read_to_string("/sys/devices/system/cpu/vulnerabilities/meltdown");
        let safe = meltdown.is_ok_and(|text| text.starts_with("Not affected"));
        extension && nested && safe && usable() && trial(qemu)
    })
}

/// Starts a machine under KVM and ends it before its first instruction.
fn trial(qemu: &Path) -> bool {
    let _step = progress::step("Trying KVM");
    let mut command = child::tied(qemu);
    command.args(["-M", "q35", "-accel", "kvm", "-cpu", "host", "-m", "64", "-S", "-nodefaults"]);
    command.args(["-display", "none", "-monitor", "stdio"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut group) = Group::spawn(&mut command) else {
        return false;
    };
    if let Some(mut monitor) = group.child().stdin.take() {
        let _ = monitor.write_all(b"quit\n");
    }
    group.wait(Some(Duration::from_secs(10))).is_ok_and(|status| status.success())
}
