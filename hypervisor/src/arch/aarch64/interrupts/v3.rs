//! GICv3: redistributors in memory, CPU interface and virtual interface control in system registers (IHI 0069).
//!
//! Registers without a name in older assemblers go by their encoding.

use super::registers::{self, read as load_register, write as store_register};
use super::virtual_interface::Interface;
use crate::addr::HostPhys;
use crate::arch::firmware::device_tree::Gic;
use crate::arch::layout::window;
use crate::arch::sysreg::{dsb, isb, read, write};
use crate::arch::{boot, smp};

/// Distributor: affinity routing, groups 1.
const ENABLE: u32 = 1 << 4 | 1 << 1;
const IROUTER: u64 = 0x6000;

/// Redistributor: two frames of 64 KiB; with virtual LPIs (TYPER.VLPIS) four.
const FRAME: u64 = 0x1_0000;
const GICR_TYPER: u64 = 0x08;
const GICR_WAKER: u64 = 0x14;
const TYPER_VLPIS: u64 = 1 << 1;
const TYPER_LAST: u64 = 1 << 4;
const PROCESSOR_SLEEP: u32 = 1 << 1;
const CHILDREN_ASLEEP: u32 = 1 << 2;

/// ICC_SRE_EL2: system registers, no bypass; ICC_SRE_EL1 traps.
const SRE: u64 = 0x7;
/// ICC_CTLR_EL1.EOImode: ending drops the priority only.
const EOI_MODE: u64 = 1 << 1;
/// ICC_SGI1R_EL1.IRM: to all but the sender.
const TO_OTHERS: u64 = 1 << 40;

pub fn init(distributor: HostPhys) {
    registers::init(distributor, ENABLE);
}

/// Address of the redistributor of the CPU with this affinity.
fn redistributor(affinity: u64) -> Option<u64> {
    let packed = affinity >> 32 << 24 | affinity & 0xff_ffff;
    let Some(Gic::V3 { redistributors, .. }) = &boot::machine().gic else {
        return None;
    };
    for range in redistributors.iter().flatten() {
        let mut at = range.start();
        while at.0 + 2 * FRAME <= range.end().0 {
            let base = window(at).0;
            let typer = u64::from(load_register(base, GICR_TYPER))
                | u64::from(load_register(base, GICR_TYPER + 4)) << 32;
            if typer >> 32 == packed {
                return Some(base);
            }
            if typer & TYPER_LAST != 0 {
                break;
            }
            at = at.offset(if typer & TYPER_VLPIS != 0 { 4 * FRAME } else { 2 * FRAME });
        }
    }
    None
}

/// Returns this CPU's affinity.
pub fn init_this_cpu() -> Option<u64> {
    let affinity = smp::affinity();
    let base = redistributor(affinity)?;
    store_register(base, GICR_WAKER, load_register(base, GICR_WAKER) & !PROCESSOR_SLEEP);
    // Bounded: an interface that does not wake delivers nothing, which shows.
    for _ in 0..1_000_000 {
        if load_register(base, GICR_WAKER) & CHILDREN_ASLEEP == 0 {
            break;
        }
    }
    registers::init_private(base + FRAME);
    write!("S3_4_C12_C9_5", SRE);
    isb();
    // ICC_SRE_EL1 for guests: system registers only.
    write!("S3_0_C12_C12_5", 7);
    isb();
    write!("S3_4_C12_C11_0", 0);
    write!("S3_0_C4_C6_0", 0xff);
    // ICC_BPR1_EL1: no preemption among interrupts.
    write!("S3_0_C12_C12_3", 7);
    write!("S3_0_C12_C12_4", read!("S3_0_C12_C12_4") | EOI_MODE);
    write!("S3_0_C12_C12_7", 1);
    isb();
    Some(affinity)
}

/// ICC_IAR1_EL1.
pub fn acknowledge() -> u32 {
    let value = read!("S3_0_C12_C12_0") as u32;
    dsb();
    value
}

/// ICC_EOIR1_EL1.
pub fn drop_priority(value: u32) {
    write!("S3_0_C12_C12_1", u64::from(value));
    isb();
}

/// ICC_DIR_EL1.
pub fn deactivate(value: u32) {
    write!("S3_0_C12_C11_1", u64::from(value));
    isb();
}

/// ICC_SGI1R_EL1.
fn generate(value: u64) {
    // What was written before is seen by who is interrupted.
    dsb();
    write!("S3_0_C12_C11_5", value);
    isb();
}

pub fn send(number: u32, affinity: u64) {
    let (aff0, aff1) = (affinity & 0xff, affinity >> 8 & 0xff);
    let (aff2, aff3) = (affinity >> 16 & 0xff, affinity >> 32 & 0xff);
    generate(
        aff3 << 48
            | (aff0 >> 4) << 44
            | aff2 << 32
            | u64::from(number) << 24
            | aff1 << 16
            | 1 << (aff0 & 15),
    );
}

pub fn send_to_others(number: u32) {
    generate(TO_OTHERS | u64::from(number) << 24);
}

pub fn route(number: u32, affinity: u64) {
    let at = IROUTER + u64::from(number) * 8;
    store_register(registers::distributor(), at, affinity as u32);
    store_register(registers::distributor(), at + 4, (affinity >> 32) as u32);
}

/// ICH_VTR_EL2.
fn vtr() -> u64 {
    read!("S3_4_C12_C11_1")
}

pub fn list_registers() -> usize {
    (vtr() as usize & 0x1f).min(abi::vcpu::aarch64::LIST_REGISTERS - 1) + 1
}

/// Registers of active priorities in each group: one for each 5 bits of preemption level (IHI 0069, 12.4.2).
fn active_registers() -> usize {
    match vtr() >> 26 & 7 {
        0..=4 => 1,
        5 => 2,
        _ => 4,
    }
}

/// Reads registers whose names differ in the last digit into the next items of an iterator, or writes them from there, as long as
/// there are items.
macro_rules! row {
    (read $items:ident, $name:literal $($digit:literal)*) => {
        'row: {$(
            let Some(item) = $items.next() else { break 'row };
            *item = read!(concat!($name, $digit)) as _;
        )*}
    };
    (write $items:ident, $name:literal $($digit:literal)*) => {
        'row: {$(
            let Some(&item) = $items.next() else { break 'row };
            write!(concat!($name, $digit), item.into());
        )*}
    };
}

pub fn save(into: &mut Interface) {
    into.vmcr = read!("S3_4_C12_C11_7");
    let count = active_registers();
    let (group_0, group_1) = into.active.split_at_mut(4);
    let (mut group_0, mut group_1) =
        (group_0.iter_mut().take(count), group_1.iter_mut().take(count));
    row!(read group_0, "S3_4_C12_C8_" 0 1 2 3);
    row!(read group_1, "S3_4_C12_C9_" 0 1 2 3);
    let mut lists = into.list.iter_mut().take(list_registers());
    row!(read lists, "S3_4_C12_C12_" 0 1 2 3 4 5 6 7);
    row!(read lists, "S3_4_C12_C13_" 0 1 2 3 4 5 6 7);
}

pub fn load(from: &Interface) {
    write!("S3_4_C12_C11_7", from.vmcr);
    let count = active_registers();
    let (group_0, group_1) = from.active.split_at(4);
    let (mut group_0, mut group_1) = (group_0.iter().take(count), group_1.iter().take(count));
    row!(write group_0, "S3_4_C12_C8_" 0 1 2 3);
    row!(write group_1, "S3_4_C12_C9_" 0 1 2 3);
    let mut lists = from.list.iter().take(list_registers());
    row!(write lists, "S3_4_C12_C12_" 0 1 2 3 4 5 6 7);
    row!(write lists, "S3_4_C12_C13_" 0 1 2 3 4 5 6 7);
}

/// ICH_HCR_EL2.
#[inline]
pub fn set_control(value: u64) {
    write!("S3_4_C12_C11_0", value);
}

/// ICH_MISR_EL2.
pub fn maintenance() -> u64 {
    read!("S3_4_C12_C11_2")
}
