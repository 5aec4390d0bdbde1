//! What the CPU can do, and switching on what protects the kernel.

use super::cpuid::leaf;
use super::paging::PAT;
use super::virt::hw;
use x86::controlregs::Cr4;
use x86::msr::{IA32_PAT, wrmsr};

use super::speculation::Identity;
use crate::boot::CommandLine;

/// What the kernel uses of the CPU.
#[derive(Clone, Copy, Debug)]
pub struct CpuFeatures {
    /// What is switched on in CR4: SMEP, SMAP, UMIP and PCID where they exist.
    controls: Cr4,
    /// 1-GiB pages.
    pub page1g: bool,
    /// The local APIC can be used through MSRs.
    pub x2apic: bool,
    /// The local APIC's timer can compare with the TSC.
    pub tsc_deadline: bool,
    /// Measures against speculation are taken.
    pub mitigate: bool,
}

impl CpuFeatures {
    /// Reads CPUID of the current CPU, and what the kernel's command line asks for; or why the kernel does not run on it.
    pub fn detect(command_line: &CommandLine) -> Result<CpuFeatures, &'static str> {
        let basic = leaf(1, 0).ecx;
        let structured = leaf(7, 0);
        let extended = leaf(0x8000_0001, 0).edx;
        let has = |word: u32, bit: u32| word >> bit & 1 != 0;
        if !has(extended, 20) {
            return Err("this CPU has no NX bit, or firmware has switched it off");
        }
        let mitigate = command_line.mitigates();
        if mitigate && Identity::read().leaks_kernel_memory() {
            return Err(
                "this CPU lets programs read kernel memory (Meltdown) and page-table isolation is not \
                        implemented; \"mitigations=off\" on the kernel's command line accepts the risk",
            );
        }
        let mut controls = Cr4::empty();
        controls.set(Cr4::CR4_ENABLE_SMEP, has(structured.ebx, 7));
        controls.set(Cr4::CR4_ENABLE_SMAP, has(structured.ebx, 20));
        controls.set(Cr4::CR4_ENABLE_UMIP, has(structured.ecx, 2));
        controls.set(Cr4::CR4_ENABLE_PCID, has(basic, 17));
        Ok(CpuFeatures {
            controls,
            page1g: has(extended, 26),
            x2apic: has(basic, 21),
            tsc_deadline: has(basic, 24),
            mitigate,
        })
    }

    /// Switches on what protects the kernel, beyond what boot code has: NX, PGE and CR0.WP. FSGSBASE stays off: user
    /// programs get no segment bases of their own making. Vector state (OSFXSR, OSXSAVE) is left to who switches it.
    ///
    /// # Safety
    ///
    /// The CPU runs on page tables that work with these rights: kernel code and data are supervisor
    /// pages, CR3 bits 11:0 are 0 (Intel SDM 3A 4.10.1).
    pub unsafe fn enable_on_this_cpu(&self) {
        // SAFETY: the features exist; the caller vouches for the page tables. Every 64-bit CPU has the MSR, and no
        // mapping uses what changes: nothing is cached by it.
        unsafe {
            hw::set_cr4(hw::cr4() | self.controls.bits() as u64);
            wrmsr(IA32_PAT, PAT);
        }
    }
}
