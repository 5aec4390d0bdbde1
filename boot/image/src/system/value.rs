//! Values that keep their own rules: each can only be made, or read from a bundle, within them.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A value that breaks its rule; says the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueError(pub &'static str);

impl core::fmt::Display for ValueError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for ValueError {}

/// Declares a value that wraps another type, with its rule.
macro_rules! value {
    ($(#[$meta:meta])* $name:ident($raw:ty as $text:literal), $rule:literal, |$v:ident| $ok:expr) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = $text, into = $text)]
        pub struct $name($raw);

        impl $name {
            /// The rule that all values of this type keep.
            pub const RULE: &str = $rule;
        }

        impl TryFrom<$raw> for $name {
            type Error = ValueError;

            fn try_from($v: $raw) -> Result<Self, ValueError> {
                if $ok { Ok($name($v)) } else { Err(ValueError($rule)) }
            }
        }

        impl From<$name> for $raw {
            fn from(value: $name) -> $raw {
                value.0
            }
        }
    };
}

value! {
    /// Number of a CPU of the machine, from 0.
    #[derive(Copy, PartialOrd, Ord)]
    Cpu(u32 as "u32"), "a CPU number is from 0 to 63", |v| (v as usize) < abi::boot::MAX_CPUS
}

value! {
    /// Priority of a scheduling context. Deliberately not ordered: see [`Priority::is_above`].
    #[derive(Copy)]
    Priority(u8 as "u8"), "a priority is from 0 (lowest) to 127", |v| (v as usize) < abi::PRIORITIES
}

value! {
    /// Kernel memory in pages of 4 KiB.
    #[derive(Copy)]
    Pages(u32 as "u32"), "a kernel-memory quota is from 64 KiB to 4 GiB", |v| (16..=1 << 20).contains(&v)
}

value! {
    /// RAM of a program in bytes.
    #[derive(Copy)]
    ProgramMemory(u64 as "u64"),
    "a program's memory is a multiple of 4 KiB, from 64 KiB to 1 GiB",
    |v| v.is_multiple_of(4096) && (64 << 10..=1 << 30).contains(&v)
}

value! {
    /// RAM of a guest in bytes.
    #[derive(Copy)]
    GuestMemory(u64 as "u64"),
    "a guest's memory is a multiple of 2 MiB, from 64 MiB to 512 GiB",
    |v| v.is_multiple_of(2 << 20) && (64 << 20..=512 << 30).contains(&v)
}

value! {
    /// Physical address of the machine at which a guest's RAM begins.
    #[derive(Copy)]
    HostAddress(u64 as "u64"),
    "a physical address is a multiple of 2 MiB, from 16 MiB to below 64 TiB",
    |v| v.is_multiple_of(2 << 20) && (16 << 20..1 << 46).contains(&v)
}

value! {
    /// Name of a part of the system.
    #[derive(PartialOrd, Ord)]
    Name(String as "String"),
    "a name has 1 to 24 characters of a-z, 0-9, `-` and `_`",
    |v| (1..=24).contains(&v.len())
        && v.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

value! {
    /// Command line of a guest's kernel.
    CommandLine(String as "String"),
    "a command line has at most 2047 printable ASCII characters",
    |v| v.len() <= 2047 && v.bytes().all(|b| (b' '..=b'~').contains(&b))
}

value! {
    /// Text handed to a native program.
    Args(String as "String"),
    "a program's arguments have at most 1023 printable ASCII characters",
    |v| v.len() <= 1023 && v.bytes().all(|b| (b' '..=b'~').contains(&b))
}

value! {
    /// The CPU of each vCPU of a VM; at least one.
    Vcpus(Vec<Cpu> as "Vec<Cpu>"), "a VM has 1 to 64 vCPUs", |v| (1..=64).contains(&v.len())
}

impl Cpu {
    /// The first CPU.
    pub const BOOT: Cpu = Cpu(0);

    /// The number.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl Priority {
    /// The number, for the system call.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Whether this priority runs before `other`.
    pub fn is_above(self, other: Priority) -> bool {
        self.0 > other.0
    }
}

impl Pages {
    /// The number of pages.
    pub fn count(self) -> u32 {
        self.0
    }

    /// Their size in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0) * abi::PAGE_SIZE as u64
    }
}

impl ProgramMemory {
    /// Size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl GuestMemory {
    /// Size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl HostAddress {
    /// The address.
    pub fn raw(self) -> u64 {
        self.0
    }
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(&self.0)
    }
}

impl CommandLine {
    /// The command line as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Args {
    /// The arguments as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Vcpus {
    /// The CPU of vCPU 0.
    pub fn first(&self) -> Cpu {
        self.0.first().copied().unwrap_or(Cpu::BOOT)
    }

    /// The CPUs, in the order of the vCPUs.
    pub fn as_slice(&self) -> &[Cpu] {
        &self.0
    }
}
