//! What CPUID tells the guest: the machine's answers through a table of masks, and the leaves that the monitor
//! makes up.
//!
//! A feature is shown when the kernel switches the state that it needs and the monitor emulates its
//! MSRs. Bits that are not in the table are 0: what comes with new processors stays hidden until
//! somebody has looked at it.
mod rules;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use guest_linux_shim::kvm;
use rules::{
    BASIC_ECX_SET, COMPACTION, EXTENDED_NEEDS_XSAVE, MAX_BASIC, MAX_EXTENDED, NEEDS_XSAVE, OSXSAVE,
    RULES, Rule, Sub, bits,
};

/// An answer of CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// What of a guest decides about the leaves.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// XCR0 bits that the guest may set; without [`Parameters::XSAVE`] it has no XSAVE.
    pub xcr0_mask: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Frequency of the TSC and of the local APIC's timer, in Hz.
    pub tsc_hz: u64,
}

/// What of a vCPU decides about the leaves.
#[derive(Clone, Copy, Debug)]
pub struct Dynamic {
    /// Its APIC ID.
    pub apic_id: u32,
    /// Its XCR0.
    pub xcr0: u64,
    /// Its CR4.OSXSAVE.
    pub osxsave: bool,
}

/// Size and offset of an XSAVE component.
#[derive(Clone, Copy, Debug)]
struct Component {
    bit: u64,
    size: u32,
    offset: u32,
    flags: u32,
}

/// The answers for a VM.
#[derive(Clone, Debug)]
pub struct Table {
    /// Leaf, sub-leaf and answer; ascending.
    leaves: Vec<(u32, u32, Leaf)>,
    /// Leaf 0xD.
    components: Vec<Component>,
    xcr0_mask: u64,
    compaction: u32,
    vcpus: u32,
    /// The leaves say more as Intel's processors do than as AMD's.
    intel: bool,
    max_basic: u32,
    max_extended: u32,
}

/// Leaf 8000_0001h, ECX: the logical processors of the package are cores, not threads.
const CMP_LEGACY: u32 = 1 << 1;
/// Bytes of the legacy region and header of an XSAVE area.
const XSAVE_BASE: u32 = 576;

impl Table {
    /// The answers on a machine that answers as `host` does (leaf, sub-leaf).
    pub fn new(host: impl Fn(u32, u32) -> Leaf, parameters: &Parameters) -> Table {
        let max_basic = host(0, 0).eax.min(MAX_BASIC);
        let max_extended = host(0x8000_0000, 0).eax.clamp(0x8000_0000, MAX_EXTENDED);
        let xsave = host(1, 0).ecx & 1 << 26 != 0 && max_basic >= 0xd && parameters.xcr0_mask > 3;
        let mut table = Table {
            leaves: Vec::new(),
            components: Vec::new(),
            xcr0_mask: if xsave { parameters.xcr0_mask } else { 0 },
            compaction: if xsave { host(0xd, 1).eax & COMPACTION } else { 0 },
            vcpus: parameters.vcpus,
            intel: host(0, 0).ebx == u32::from_le_bytes(*b"Genu"),
            max_basic,
            max_extended,
        };
        for &Rule(number, sub, masks) in RULES {
            let limit = if number < 0x8000_0000 { max_basic } else { max_extended };
            if number > limit {
                continue;
            }
            let first = if let Sub::Exact(sub) = sub { sub } else { 0 };
            let last = if sub == Sub::UntilNull { 15 } else { first };
            for sub in first..=last {
                let answer = host(number, sub);
                if last > first && answer.eax & 0x1f == 0 {
                    break;
                }
                let mut leaf = Leaf {
                    eax: answer.eax & masks[0],
                    ebx: answer.ebx & masks[1],
                    ecx: answer.ecx & masks[2],
                    edx: answer.edx & masks[3],
                };
                table.adjust(number, &mut leaf);
                table.leaves.push((number, sub, leaf));
            }
        }
        for index in 2..63 {
            let bit = 1 << index;
            if table.xcr0_mask & bit != 0 {
                let Leaf { eax, ebx, ecx, .. } = host(0xd, index);
                table.components.push(Component { bit, size: eax, offset: ebx, flags: ecx & 2 });
            }
        }
        table.make_up(parameters);
        table.leaves.sort_by_key(|&(leaf, sub, _)| (leaf, sub));
        table
    }

    fn adjust(&self, number: u32, leaf: &mut Leaf) {
        match number {
            0 => leaf.eax = self.max_basic,
            1 => {
                leaf.ecx |= BASIC_ECX_SET;
                if self.vcpus > 1 {
                    leaf.edx |= 1 << 28;
                }
                leaf.ebx |= self.vcpus.min(255) << 16;
                if self.xcr0_mask == 0 {
                    leaf.ecx &= !NEEDS_XSAVE;
                }
            }
            // Cores of the package.
            4 => leaf.eax |= (self.vcpus.clamp(1, 64) - 1) << 26,
            0x8000_0008 if !self.intel => {
                leaf.ecx = self.core_bits() << 12 | (self.vcpus.clamp(1, 256) - 1);
            }
            7 => {
                // What needs state components that the guest may not have.
                if self.xcr0_mask & 0x4 == 0 {
                    leaf.ebx &= !bits(&[5]);
                    leaf.ecx &= !bits(&[9, 10]);
                }
                if self.xcr0_mask & 0xe0 != 0xe0 {
                    leaf.ebx &= !bits(&[16, 17, 21, 28, 30, 31]);
                    leaf.ecx &= !bits(&[1, 6, 11, 12, 14]);
                }
            }
            0x8000_0000 => leaf.eax = self.max_extended,
            0x8000_0001 => {
                if self.xcr0_mask & 0x4 == 0 {
                    leaf.ecx &= !EXTENDED_NEEDS_XSAVE;
                }
                if self.vcpus > 1 && !self.intel {
                    leaf.ecx |= CMP_LEGACY;
                }
            }
            _ => {}
        }
    }

    /// Leaves that do not depend on the machine.
    fn make_up(&mut self, parameters: &Parameters) {
        let [ebx, ecx, edx] = kvm::SIGNATURE;
        let signature = Leaf { eax: kvm::CPUID_FREQUENCY, ebx, ecx, edx };
        use kvm::feature as f;
        let features = Leaf {
            eax: f::CLOCKSOURCE
                | f::CLOCKSOURCE2
                | f::CLOCKSOURCE_STABLE
                | f::NOP_IO_DELAY
                | f::PV_EOI,
            ..Leaf::default()
        };
        let khz = (parameters.tsc_hz / 1000) as u32;
        let frequency = Leaf { eax: khz, ebx: khz, ..Leaf::default() };
        // The local APIC's timer never stops.
        let power = Leaf { eax: 1 << 2, ..Leaf::default() };
        self.leaves.extend([
            (6, 0, power),
            (kvm::CPUID_SIGNATURE, 0, signature),
            (kvm::CPUID_FEATURES, 0, features),
            (kvm::CPUID_FREQUENCY, 0, frequency),
        ]);
    }

    fn find(&self, leaf: u32, sub: u32) -> Leaf {
        match self.leaves.binary_search_by_key(&(leaf, sub), |&(leaf, sub, _)| (leaf, sub)) {
            Ok(i) => self.leaves[i].2,
            Err(_) => Leaf::default(),
        }
    }

    /// What CPUID answers.
    pub fn get(&self, leaf: u32, sub: u32, now: &Dynamic) -> Leaf {
        match leaf {
            1 => {
                let mut answer = self.find(1, 0);
                answer.ebx |= now.apic_id << 24;
                if now.osxsave {
                    answer.ecx |= OSXSAVE;
                }
                answer
            }
            4 | 7 => self.find(leaf, sub),
            0xb => self.topology(sub, now.apic_id),
            0xd => self.xsave(sub, now.xcr0),
            // Beyond the end: the highest basic leaf, as Intel's processors do; AMD's give 0.
            _ => self.find(leaf, 0),
        }
    }

    /// Leaf 0xB: one thread per core, all cores in one package.
    fn topology(&self, sub: u32, apic_id: u32) -> Leaf {
        if self.max_basic < 0xb {
            return Leaf::default();
        }
        let (eax, ebx, kind) = match sub {
            0 => (0, 1, 1 << 8),
            1 => (self.core_bits(), self.vcpus, 2 << 8),
            _ => (0, 0, 0),
        };
        Leaf { eax, ebx, ecx: sub & 0xff | kind, edx: apic_id }
    }

    /// Bits of an APIC ID that tell the core.
    fn core_bits(&self) -> u32 {
        self.vcpus.next_power_of_two().trailing_zeros()
    }

    fn xsave(&self, sub: u32, xcr0: u64) -> Leaf {
        if self.xcr0_mask == 0 {
            return Leaf::default();
        }
        let size = |enabled: u64| {
            let used = self.components.iter().filter(|component| component.bit & enabled != 0);
            used.map(|c| c.offset.saturating_add(c.size)).max().unwrap_or(0).max(XSAVE_BASE)
        };
        match sub {
            0 => Leaf {
                eax: self.xcr0_mask as u32,
                ebx: size(xcr0),
                ecx: size(u64::MAX),
                edx: (self.xcr0_mask >> 32) as u32,
            },
            1 => {
                // Compacted: one component behind the other.
                let ebx = self.components.iter().filter(|c| c.bit & xcr0 != 0).fold(
                    XSAVE_BASE,
                    |end, c| {
                        let start = if c.flags & 2 != 0 { end.next_multiple_of(64) } else { end };
                        start.saturating_add(c.size)
                    },
                );
                let compacts = self.compaction & 2 != 0;
                let ebx = if compacts { ebx } else { 0 };
                Leaf { eax: self.compaction, ebx, ..Leaf::default() }
            }
            2..63 => match self.components.iter().find(|c| c.bit == 1 << sub) {
                Some(c) => Leaf { eax: c.size, ebx: c.offset, ecx: c.flags, edx: 0 },
                None => Leaf::default(),
            },
            _ => Leaf::default(),
        }
    }

    /// Family, model and stepping, as in EAX of leaf 1.
    pub fn signature(&self) -> u32 {
        self.find(1, 0).eax
    }

    /// Whether the guest has XSAVE.
    pub fn has_xsave(&self) -> bool {
        self.xcr0_mask != 0
    }

    /// Whether XSETBV takes `value` for XCR0 (Intel SDM 1 13.3).
    pub fn allows_xcr0(&self, value: u64) -> bool {
        let (avx, avx512) = (value & 4 != 0, value & 0xe0);
        value & 1 != 0
            && value & !self.xcr0_mask == 0
            && (!avx || value & 2 != 0)
            && (avx512 == 0 || avx512 == 0xe0 && avx)
    }
}
