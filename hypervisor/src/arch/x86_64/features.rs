//! What the CPU can do, and switching on what protects the kernel.

use core::arch::asm;
use core::fmt;

use super::cpuid::leaf;
use super::paging::PAT;
use bitflags::bitflags;
use x86::controlregs::Cr4;
use x86::msr::{IA32_EFER, IA32_PAT, rdmsr, wrmsr};

use super::speculation::Identity;
use crate::boot::CommandLine;

/// CPUID features that the kernel uses or has to know.
#[derive(Clone, Copy, Debug)]
pub struct CpuFeatures {
    /// Pages can be made not executable.
    pub nx: bool,
    /// Process-context identifiers: tagged TLB entries.
    pub pcid: bool,
    /// Supervisor-mode access prevention.
    pub smap: bool,
    /// Supervisor-mode execution prevention.
    pub smep: bool,
    /// User-mode instruction prevention: SGDT, SIDT, SLDT, SMSW, STR.
    pub umip: bool,
    /// 1-GiB pages.
    pub page1g: bool,
    /// The local APIC can be used through MSRs.
    pub x2apic: bool,
    /// The local APIC's timer can compare with the TSC.
    pub tsc_deadline: bool,
    /// User code may read kernel memory speculatively ("Meltdown", CVE-2017-5754).
    pub meltdown: bool,
    /// Measures against speculation are taken.
    pub mitigate: bool,
}

/// Why the kernel does not run on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No NX: data would be executable.
    NoExecuteDisable,
    /// The CPU needs page-table isolation, which the kernel does not have.
    Meltdown,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NoExecuteDisable => "this CPU has no NX bit, or firmware has switched it off",
            Refusal::Meltdown => {
                "this CPU lets programs read kernel memory (Meltdown) and page-table isolation is not \
                 implemented; \"mitigations=off\" on the kernel's command line accepts the risk"
            }
        })
    }
}

bitflags! {
    struct Efer: u64 {
        const NO_EXECUTE = 1 << 11;
    }
}

impl CpuFeatures {
    /// Reads CPUID of the current CPU, and what the kernel's command line asks for.
    pub fn detect(command_line: &CommandLine) -> CpuFeatures {
        let basic = leaf(1, 0).ecx;
        let structured = leaf(7, 0);
        let extended = leaf(0x8000_0001, 0).edx;
        let has = |word: u32, bit: u32| word >> bit & 1 != 0;
        CpuFeatures {
            nx: has(extended, 20),
            pcid: has(basic, 17),
            smap: has(structured.ebx, 20),
            smep: has(structured.ebx, 7),
            umip: has(structured.ecx, 2),
            page1g: has(extended, 26),
            x2apic: has(basic, 21),
            tsc_deadline: has(basic, 24),
            meltdown: Identity::read().leaks_kernel_memory(),
            mitigate: command_line.mitigates(),
        }
    }

    /// Whether the kernel may run on this CPU.
    pub fn check(&self) -> Result<(), Refusal> {
        if !self.nx {
            return Err(Refusal::NoExecuteDisable);
        }
        if self.meltdown && self.mitigate {
            return Err(Refusal::Meltdown);
        }
        Ok(())
    }

    /// Switches on NX, PGE, SMEP, SMAP, UMIP and PCID where they exist, and FSGSBASE off: user programs get no segment bases
    /// of their own making. CR0.WP is on
    /// since entry. Vector state (OSFXSR, OSXSAVE) is left to who switches it.
    ///
    /// # Safety
    ///
    /// The CPU runs on page tables that work with these rights: kernel code and data are supervisor
    /// pages, CR3 bits 11:0 are 0 (Intel SDM 3A 4.10.1).
    pub unsafe fn enable_on_this_cpu(&self) {
        let mut set = Cr4::CR4_ENABLE_GLOBAL_PAGES;
        set.set(Cr4::CR4_ENABLE_SMEP, self.smep);
        set.set(Cr4::CR4_ENABLE_SMAP, self.smap);
        set.set(Cr4::CR4_ENABLE_UMIP, self.umip);
        set.set(Cr4::CR4_ENABLE_PCID, self.pcid);
        let set = set.bits() as u64;
        let clear = Cr4::CR4_ENABLE_FSGSBASE.bits() as u64;
        // SAFETY: the features exist; the caller vouches for the page tables. The crate's accessors
        // drop bits that it does not know, hence the asm.
        unsafe {
            asm!(
                "mov {cr4}, cr4",
                "or {cr4}, {set}",
                "and {cr4}, {keep}",
                "mov cr4, {cr4}",
                cr4 = out(reg) _,
                set = in(reg) set,
                keep = in(reg) !clear,
                options(nostack),
            );
        }
        // SAFETY: every 64-bit CPU has the register, and no mapping uses what changes: nothing is cached by it.
        unsafe { wrmsr(IA32_PAT, PAT) };
        if self.nx {
            // SAFETY: EFER exists on every 64-bit CPU, and NX on this one.
            unsafe { wrmsr(IA32_EFER, rdmsr(IA32_EFER) | Efer::NO_EXECUTE.bits()) };
        }
    }
}
