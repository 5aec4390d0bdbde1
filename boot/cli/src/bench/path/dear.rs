//! Instructions that cost more than the one that they count.

use configs::Architecture;

/// An instruction that only the kernel may execute, or at which processors wait for all before it to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dear {
    /// The first.
    pub is_privileged: bool,
    /// The second.
    pub is_serialising: bool,
}

impl Dear {
    /// Whether it is neither, but named all the same.
    pub fn is_plain(self) -> bool {
        self == PLAIN
    }
}

const PLAIN: Dear = Dear { is_privileged: false, is_serialising: false };
const PRIVILEGED: Dear = Dear { is_privileged: true, is_serialising: false };
const SERIALISING: Dear = Dear { is_privileged: false, is_serialising: true };
const BOTH: Dear = Dear { is_privileged: true, is_serialising: true };

/// x86-64, by mnemonic. Serialising: Intel SDM 3, "Serializing Instructions", and the switches between host and guest.
const X86: &[(&str, Dear)] = &[
    ("clgi", PRIVILEGED),
    ("cli", PRIVILEGED),
    ("cpuid", SERIALISING),
    ("hlt", PRIVILEGED),
    ("in", PRIVILEGED),
    ("invept", BOTH),
    ("invlpg", BOTH),
    ("invlpga", BOTH),
    ("invpcid", BOTH),
    ("invvpid", BOTH),
    ("iretq", SERIALISING),
    ("lgdt", BOTH),
    ("lidt", BOTH),
    ("lfence", SERIALISING),
    ("ltr", BOTH),
    ("mfence", SERIALISING),
    ("out", PRIVILEGED),
    ("rdmsr", PRIVILEGED),
    ("stgi", PRIVILEGED),
    ("sti", PRIVILEGED),
    ("swapgs", PRIVILEGED),
    ("syscall", PLAIN),
    ("sysret", PRIVILEGED),
    ("sysretq", PRIVILEGED),
    ("verw", PLAIN),
    ("vmlaunch", BOTH),
    ("vmload", PRIVILEGED),
    ("vmread", PRIVILEGED),
    ("vmresume", BOTH),
    ("vmrun", BOTH),
    ("vmsave", PRIVILEGED),
    ("vmwrite", PRIVILEGED),
    ("wbinvd", BOTH),
    ("wrmsr", BOTH),
    ("xsetbv", PRIVILEGED),
];

/// Instructions of x86-64 that move vector registers.
const VECTORS: [&str; 5] = ["xsave", "xrstor", "fxsave", "fxrstor", "fnsave"];

/// AArch64, by mnemonic; MSR and MRS see [`dear`].
const ARM: &[(&str, Dear)] = &[
    ("dsb", SERIALISING),
    ("eret", BOTH),
    ("hvc", PLAIN),
    ("ic", SERIALISING),
    ("isb", SERIALISING),
    ("smc", PRIVILEGED),
    ("svc", PLAIN),
    ("tlbi", PRIVILEGED),
    ("wfi", PRIVILEGED),
];

/// If an instruction is dear, its name and why. `text` is in the syntax of QEMU or of Bochs.
pub fn dear(architecture: Architecture, text: &str) -> Option<(String, Dear)> {
    let (mnemonic, operands) = text.split_once(' ').unwrap_or((text, ""));
    let named = |table: &[(&str, Dear)]| {
        // QEMU's have the size of the operand behind them, where there are several.
        let short = mnemonic.trim_end_matches(['b', 'w', 'l', 'q']);
        let is = |name: &str| table.iter().find(|(known, _)| *known == name);
        is(mnemonic).or_else(|| is(short)).map(|(name, dear)| (name.to_string(), *dear))
    };
    match architecture {
        Architecture::X86_64 => {
            let (first, last) = operands.split_once(", ").unwrap_or((operands, ""));
            // QEMU names what is written last, Bochs first and without a sign before registers.
            let (written, read) = match operands.contains('%') {
                true => (last.strip_prefix("%cr"), first.strip_prefix("%cr")),
                false => (first.strip_prefix("cr"), last.strip_prefix("cr")),
            };
            match (written, read) {
                // CR8 does not serialise.
                (Some("8"), _) => Some(("write cr8".into(), PRIVILEGED)),
                (Some(number), _) => Some((format!("write cr{number}"), BOTH)),
                (None, Some(number)) => Some((format!("read cr{number}"), PRIVILEGED)),
                (None, None) if VECTORS.iter().any(|name| mnemonic.starts_with(name)) => {
                    Some((mnemonic.to_owned(), PLAIN))
                }
                (None, None) => named(X86),
            }
        }
        Architecture::Arm64 => {
            let mut operands = operands.split(", ");
            let (to, from) = (operands.next()?, operands.next());
            let register = match mnemonic {
                "msr" => Some(to),
                "mrs" => from,
                _ => None,
            };
            match register {
                Some(register) => {
                    let is_open = register.ends_with("_el0") && register != "sp_el0";
                    let why = Dear { is_privileged: !is_open, is_serialising: false };
                    Some((format!("{mnemonic} {register}"), why))
                }
                None => named(ARM),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dear_is_found_by_its_name() {
        let x86 = |text| dear(Architecture::X86_64, text);
        assert_eq!(x86("movq %rbx, %cr3"), Some(("write cr3".into(), BOTH)));
        assert_eq!(x86("movq %cr2, %rax"), Some(("read cr2".into(), PRIVILEGED)));
        assert_eq!(x86("movq %rax, %cr8"), Some(("write cr8".into(), PRIVILEGED)));
        assert_eq!(x86("vmrun %rax"), Some(("vmrun".into(), BOTH)));
        assert_eq!(x86("swapgs"), Some(("swapgs".into(), PRIVILEGED)));
        assert!(x86("xsaveopt64 (%rdi)").is_some());
        assert_eq!(x86("movq %rbx, %rcx"), None);
        assert_eq!(x86("mov cr3, rbx"), Some(("write cr3".into(), BOTH)));
        assert_eq!(x86("mov rax, cr2"), Some(("read cr2".into(), PRIVILEGED)));
        assert_eq!(x86("vmread rcx, rax"), Some(("vmread".into(), PRIVILEGED)));
        assert_eq!(x86("outb %al, %dx"), Some(("out".into(), PRIVILEGED)));
        assert_eq!(x86("sysret"), Some(("sysret".into(), PRIVILEGED)));
        assert_eq!(x86("mov rbx, rcx"), None);
        let arm = |text| dear(Architecture::Arm64, text);
        assert_eq!(arm("msr vttbr_el2, x17"), Some(("msr vttbr_el2".into(), PRIVILEGED)));
        assert_eq!(arm("mrs x0, sp_el0"), Some(("mrs sp_el0".into(), PRIVILEGED)));
        assert!(arm("msr tpidr_el0, xzr").is_some_and(|(_, why)| !why.is_privileged));
        assert_eq!(arm("isb"), Some(("isb".into(), SERIALISING)));
        assert_eq!(arm("eret"), Some(("eret".into(), BOTH)));
        assert_eq!(arm("mov x0, x1"), None);
    }
}
