//! Registers of the distributor (IHI 0048, 4.3; IHI 0069, 12.9) and the redistributors (IHI 0069, 12.10, 12.11).
//!
//! The vCPU that makes an access has been folded, so that only other vCPUs' list registers hide something. Of those
//! a read gives what was last seen and kicks them, so that who reads again sees it.
use super::sgi::Sgi;
use super::{Gic, Kicks, MAX_VCPUS, SPIS, Version};
use crate::arch::aarch64::layout;
use crate::bits::truncate;

/// A frame of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The distributor.
    Distributor,
    /// GICv3: own registers of a vCPU's redistributor (RD_base).
    Redistributor(usize),
    /// GICv3: SGIs and PPIs of a vCPU's redistributor (SGI_base).
    Private(usize),
}

/// Offsets: the distributor's, of which SGI_base shares IGROUPR to ICFGR, and those of RD_base.
mod offset {
    pub const CTLR: u32 = 0x000;
    pub const TYPER: u32 = 0x004;
    pub const IIDR: u32 = 0x008;
    pub const GICR_IIDR: u32 = 0x004;
    /// Processor number from bit 8 on, Last in bit 4.
    pub const GICR_TYPER: u32 = 0x008;
    pub const GICR_AFFINITY: u32 = 0x00c;
    /// ProcessorSleep in bit 1, ChildrenAsleep in bit 2.
    pub const WAKER: u32 = 0x014;
    pub const IGROUPR: u32 = 0x080;
    pub const ISENABLER: u32 = 0x100;
    pub const ICENABLER: u32 = 0x180;
    pub const ISPENDR: u32 = 0x200;
    pub const ICPENDR: u32 = 0x280;
    pub const ISACTIVER: u32 = 0x300;
    pub const ICACTIVER: u32 = 0x380;
    pub const IPRIORITYR: u32 = 0x400;
    pub const ITARGETSR: u32 = 0x800;
    pub const ICFGR: u32 = 0xc00;
    pub const IGRPMODR: u32 = 0xd00;
    pub const SGIR: u32 = 0xf00;
    pub const CPENDSGIR: u32 = 0xf10;
    pub const SPENDSGIR: u32 = 0xf20;
    pub const ICPIDR2: u32 = 0xfe8;
    pub const IROUTER: u32 = 0x6100;
    pub const PIDR2: u32 = 0xffe8;
}

/// Bits of a priority that there are: what every machine's list registers have.
const PRIORITY_BITS: u8 = 0xf8;
/// Implementer: Arm.
const IIDR: u32 = 0x43b;
/// GICv3 GICD_CTLR: affinity routing is on and cannot be switched off, one security state.
const CTLR_V3: u32 = 1 << 6 | 1 << 4;
/// GICD_TYPER.ITLinesNumber.
const LINES: u32 = SPIS / 32;
/// GICv3 GICD_TYPER: no 1-of-N, INTIDs of 10 bits.
const TYPER_V3: u32 = 1 << 25 | 9 << 19;
/// GICD_IROUTER: bits that there are; no Interrupt_Routing_Mode.
const ROUTE: u64 = 0xff_00ff_ffff;

/// One register word of a bank: registers with a bit for each interrupt.
#[derive(Clone, Copy)]
enum Word {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
}

/// What is at an offset that distributor and redistributors have in common.
enum Common {
    Word(Word, usize),
    /// Bank and first bit.
    Priority(usize, usize),
    /// Bank and half.
    Config(usize, usize),
}

fn common(at: u32) -> Option<Common> {
    use offset::*;
    let bank = |base: u32| ((at - base) / 4) as usize;
    let word = |kind, base| Some(Common::Word(kind, bank(base)));
    match at {
        IGROUPR..ISENABLER => word(Word::Group, IGROUPR),
        ISENABLER..ICENABLER => word(Word::SetEnable, ISENABLER),
        ICENABLER..ISPENDR => word(Word::ClearEnable, ICENABLER),
        ISPENDR..ICPENDR => word(Word::SetPending, ISPENDR),
        ICPENDR..ISACTIVER => word(Word::ClearPending, ICPENDR),
        ISACTIVER..ICACTIVER => word(Word::SetActive, ISACTIVER),
        ICACTIVER..IPRIORITYR => word(Word::ClearActive, ICACTIVER),
        IPRIORITYR..ITARGETSR => {
            let first = (at - IPRIORITYR) as usize;
            Some(Common::Priority(first / 32, first % 32))
        }
        ICFGR..IGRPMODR => {
            let word = bank(ICFGR);
            Some(Common::Config(word / 2, word % 2))
        }
        _ => None,
    }
}

/// Every other bit of a word of GICD_ICFGR: bit `2n + 1` says that interrupt `n` is an edge.
fn spread(edge: u32) -> u32 {
    (0..16).fold(0, |word, n| word | (edge >> n & 1) << (2 * n + 1))
}

fn gather(word: u32) -> u32 {
    (0..16).fold(0, |edge, n| edge | (word >> (2 * n + 1) & 1) << n)
}

impl Gic {
    /// The register frame at a guest-physical address, and the offset in it.
    pub fn frame(&self, address: u64) -> Option<(Frame, u32)> {
        let size = match self.version {
            Version::V2 => layout::DISTRIBUTOR_V2_SIZE,
            Version::V3 => layout::DISTRIBUTOR_V3_SIZE,
        };
        if let Some(offset) =
            address.checked_sub(layout::DISTRIBUTOR).filter(|offset| *offset < size)
        {
            return Some((Frame::Distributor, offset as u32));
        }
        if self.version == Version::V2 {
            return None;
        }
        let offset = address.checked_sub(layout::REDISTRIBUTORS)?;
        let vcpu = (offset / layout::REDISTRIBUTOR_SIZE) as usize;
        if vcpu >= self.vcpus {
            return None;
        }
        let at = (offset % layout::REDISTRIBUTOR_SIZE) as u32;
        let frame = match at >> 16 {
            0 => Frame::Redistributor(vcpu),
            _ => Frame::Private(vcpu),
        };
        Some((frame, at & 0xffff))
    }

    /// Reads `size` bytes (1, 2, 4 or 8); vCPU `vcpu` makes the access.
    pub fn read(
        &mut self,
        vcpu: usize,
        frame: Frame,
        offset: u32,
        size: u8,
        kicks: &mut Kicks,
    ) -> u64 {
        let vcpu = vcpu % MAX_VCPUS;
        let word = u64::from(self.read_word(vcpu, frame, offset & !3, kicks));
        let value = word >> (offset % 4 * 8);
        if size < 8 {
            return truncate(value, size);
        }
        let high = self.read_word(vcpu, frame, (offset & !3).wrapping_add(4), kicks);
        u64::from(high) << 32 | value
    }

    /// Writes `size` bytes.
    pub fn write(
        &mut self,
        vcpu: usize,
        frame: Frame,
        offset: u32,
        size: u8,
        value: u64,
        kicks: &mut Kicks,
    ) {
        let (vcpu, shift) = (vcpu % MAX_VCPUS, offset % 4 * 8);
        let mask = match size {
            1 => 0xff << shift,
            2 => 0xffff << shift,
            _ => u32::MAX,
        };
        let word = (value as u32) << shift;
        self.write_word(vcpu, frame, offset & !3, word & mask, mask, kicks);
        if size == 8 {
            let high = (offset & !3).wrapping_add(4);
            let value = (value >> 32) as u32;
            self.write_word(vcpu, frame, high, value, u32::MAX, kicks);
        }
    }

    fn read_word(&mut self, vcpu: usize, frame: Frame, at: u32, kicks: &mut Kicks) -> u32 {
        use offset::*;
        let v3 = self.version == Version::V3;
        match frame {
            Frame::Distributor => match at {
                CTLR => self.groups | if v3 { CTLR_V3 } else { 0 },
                TYPER if v3 => LINES | TYPER_V3,
                TYPER => LINES | (self.vcpus as u32 - 1) << 5,
                IIDR => self::IIDR,
                ITARGETSR..ICFGR if !v3 => self.read_targets(vcpu, (at - ITARGETSR) as usize),
                CPENDSGIR..SPENDSGIR if !v3 => self.sources(vcpu, (at - CPENDSGIR) as usize),
                SPENDSGIR..0xf30 if !v3 => self.sources(vcpu, (at - SPENDSGIR) as usize),
                ICPIDR2 if !v3 => 0x2b,
                PIDR2 => 0x3b,
                IROUTER.. if v3 => match self.routes.get((at - IROUTER) as usize / 8) {
                    Some(route) => (route >> (at % 8 * 8)) as u32,
                    None => 0,
                },
                _ => match common(at) {
                    Some(register) => self.read_common(vcpu, register, v3, kicks),
                    None => 0,
                },
            },
            Frame::Redistributor(of) => match at {
                GICR_IIDR => self::IIDR,
                GICR_TYPER => (of as u32) << 8 | u32::from(of + 1 == self.vcpus) << 4,
                GICR_AFFINITY => of as u32,
                WAKER => u32::from(self.private[of % MAX_VCPUS].asleep) * 0b110,
                PIDR2 => 0x3b,
                _ => 0,
            },
            Frame::Private(of) => match common(at) {
                Some(register) if bank_of(&register) == 0 => {
                    if of != vcpu {
                        kicks.add(of);
                    }
                    self.read_common(of % MAX_VCPUS, register, false, kicks)
                }
                _ => 0,
            },
        }
    }

    /// `shared_only`: the distributor does not show the private interrupts.
    fn read_common(
        &mut self,
        vcpu: usize,
        register: Common,
        shared_only: bool,
        kicks: &mut Kicks,
    ) -> u32 {
        let number = bank_of(&register);
        if number > LINES as usize || shared_only && number == 0 {
            return 0;
        }
        let looks_at_state = matches!(
            register,
            Common::Word(
                Word::SetPending | Word::ClearPending | Word::SetActive | Word::ClearActive,
                _
            )
        );
        if looks_at_state && number != 0 {
            let loaded = self.bank(vcpu, number).loaded;
            self.affected(number, loaded, kicks);
        }
        let bank = self.bank(vcpu, number);
        match register {
            Common::Word(Word::Group, _) => bank.group1,
            Common::Word(Word::SetEnable | Word::ClearEnable, _) => bank.enabled,
            Common::Word(Word::SetPending | Word::ClearPending, _) => bank.seems_pending(),
            Common::Word(Word::SetActive | Word::ClearActive, _) => bank.active,
            Common::Priority(_, first) => {
                u32::from_le_bytes(core::array::from_fn(|i| bank.priority[(first + i) % 32]))
            }
            Common::Config(_, half) => spread(bank.edge >> (half * 16)),
        }
    }

    fn write_word(
        &mut self,
        vcpu: usize,
        frame: Frame,
        at: u32,
        value: u32,
        mask: u32,
        kicks: &mut Kicks,
    ) {
        use offset::*;
        let v3 = self.version == Version::V3;
        let whole = mask == u32::MAX;
        match frame {
            Frame::Distributor => match at {
                CTLR if whole => {
                    self.groups = value & 3;
                    for vcpu in 0..self.vcpus {
                        kicks.add(vcpu);
                    }
                }
                ITARGETSR..ICFGR if !v3 => {
                    self.write_targets((at - ITARGETSR) as usize, value, mask, kicks);
                }
                SGIR if !v3 && whole => {
                    if let Some(sgi) = Sgi::from_distributor(value) {
                        self.send(vcpu, sgi, kicks);
                    }
                }
                CPENDSGIR..SPENDSGIR if !v3 => {
                    self.change_sources(vcpu, (at - CPENDSGIR) as usize, value, false);
                }
                SPENDSGIR..0xf30 if !v3 => {
                    self.change_sources(vcpu, (at - SPENDSGIR) as usize, value, true);
                }
                IROUTER.. if v3 && whole => self.write_route(at - IROUTER, value, kicks),
                _ => {
                    if let Some(register) = common(at)
                        && !(v3 && bank_of(&register) == 0)
                    {
                        self.write_common(vcpu, vcpu, register, value, mask, kicks);
                    }
                }
            },
            Frame::Redistributor(of) => {
                if at == WAKER && whole {
                    self.private[of % MAX_VCPUS].asleep = value & 2 != 0;
                }
            }
            Frame::Private(of) => {
                if let Some(register) = common(at)
                    && bank_of(&register) == 0
                {
                    self.write_common(vcpu, of % MAX_VCPUS, register, value, mask, kicks);
                }
            }
        }
    }

    /// `vcpu` writes; private interrupts are those of `of`.
    fn write_common(
        &mut self,
        vcpu: usize,
        of: usize,
        register: Common,
        value: u32,
        mask: u32,
        kicks: &mut Kicks,
    ) {
        let number = bank_of(&register);
        if number > LINES as usize {
            return;
        }
        let v2 = self.version == Version::V2;
        let whole = mask == u32::MAX;
        let bank = self.bank(of, number);
        // GICv2: SGIs are always enabled, and pending by their sources alone.
        let fixed = if v2 && number == 0 { 0xffff } else { 0 };
        let bits = match register {
            Common::Priority(_, first) => {
                let bytes = value.to_le_bytes().into_iter().zip(mask.to_le_bytes());
                for (i, (byte, mask)) in bytes.enumerate() {
                    if mask != 0 {
                        bank.priority[(first + i) % 32] = byte & PRIORITY_BITS;
                    }
                }
                0xf << (first % 32)
            }
            _ if !whole => return,
            Common::Word(Word::Group, _) => {
                let changed = bank.group1 ^ value;
                bank.group1 = value;
                changed
            }
            Common::Word(Word::SetEnable, _) => {
                bank.enabled |= value;
                value
            }
            Common::Word(Word::ClearEnable, _) => {
                bank.enabled &= !(value & !fixed);
                value
            }
            Common::Word(Word::SetPending, _) => {
                bank.set_pending(value & !fixed);
                value
            }
            Common::Word(Word::ClearPending, _) => {
                bank.clear_pending(value & !fixed);
                value
            }
            Common::Word(Word::SetActive, _) => {
                bank.set_active(value, of);
                value
            }
            Common::Word(Word::ClearActive, _) => {
                bank.clear_active(value);
                value
            }
            Common::Config(_, half) => {
                // SGIs are edges.
                if number != 0 || half != 0 {
                    let edges = gather(value) << (half * 16);
                    bank.edge = bank.edge & !(0xffff << (half * 16)) | edges;
                }
                0
            }
        };
        if number != 0 {
            self.affected(number, bits, kicks);
        } else if of != vcpu {
            kicks.add(of);
        }
    }

    fn read_targets(&self, vcpu: usize, first: usize) -> u32 {
        u32::from_le_bytes(core::array::from_fn(|i| {
            match (first + i).checked_sub(32) {
                // Private interrupts: the reader.
                None => 1 << vcpu,
                Some(spi) => self.targets.get(spi).copied().unwrap_or(0),
            }
        }))
    }

    fn write_targets(&mut self, first: usize, value: u32, mask: u32, kicks: &mut Kicks) {
        let vcpus = ((1u32 << self.vcpus) - 1) as u8;
        let bytes = value.to_le_bytes().into_iter().zip(mask.to_le_bytes());
        for (i, (byte, mask)) in bytes.enumerate() {
            if let Some(spi) = (first + i).checked_sub(32)
                && mask != 0
                && let Some(target) = self.targets.get_mut(spi)
            {
                *target = byte & vcpus;
                self.affected(spi / 32 + 1, 1 << (spi % 32), kicks);
            }
        }
    }

    fn write_route(&mut self, at: u32, value: u32, kicks: &mut Kicks) {
        let spi = at as usize / 8;
        if let Some(route) = self.routes.get_mut(spi) {
            let shift = at % 8 * 8;
            let half = 0xffff_ffffu64 << shift;
            *route = (*route & !half | u64::from(value) << shift) & ROUTE;
            self.affected(spi / 32 + 1, 1 << (spi % 32), kicks);
        }
    }
}

fn bank_of(register: &Common) -> usize {
    match register {
        Common::Word(_, bank) | Common::Priority(bank, _) | Common::Config(bank, _) => *bank,
    }
}
