//! GICv2: CPU interface and virtual interface control in memory (IHI 0048, 4.4 and 5.3).

use super::list_register::{narrow, widen};
use super::registers::{self, ITARGETSR, SGIR, read, write};
use super::virtual_interface::Interface;
use crate::addr::HostPhys;
use crate::arch::layout::window;
use crate::arch::sysreg::{dsb, publish};
use crate::boot::PhysRange;
use core::sync::atomic::{AtomicU64, Ordering};

static CPU_INTERFACE: AtomicU64 = AtomicU64::new(0);
static CONTROL: AtomicU64 = AtomicU64::new(0);

/// CPU interface.
const GICC_CTLR: u64 = 0x00;
const GICC_PMR: u64 = 0x04;
const GICC_IAR: u64 = 0x0c;
const GICC_EOIR: u64 = 0x10;
const GICC_IIDR: u64 = 0xfc;
/// In the interface's second page.
const GICC_DIR: u64 = 0x1000;
/// GICC_CTLR: enabled; EOImodeNS: ending drops the priority only.
const CONTROL_BITS: u32 = 1 << 9 | 1 << 0;

/// Virtual interface control.
const GICH_HCR: u64 = 0x00;
const GICH_VTR: u64 = 0x04;
const GICH_VMCR: u64 = 0x08;
const GICH_MISR: u64 = 0x10;
const GICH_APR: u64 = 0xf0;
const GICH_LR: u64 = 0x100;

/// SGIR: to all but the sender.
const TO_OTHERS: u32 = 1 << 24;

fn cpu_interface() -> u64 {
    CPU_INTERFACE.load(Ordering::Relaxed)
}

fn control() -> u64 {
    CONTROL.load(Ordering::Relaxed)
}

/// Bytes that an interface takes where each of its pages is repeated over 64 KiB, as the bases of server systems have it.
const SPREAD: u64 = 0x2_0000;
/// Where in such a range the first page's last copy is, which the second page follows.
const LAST_COPY: u64 = 0xf000;

/// Sets the distributor up. Returns the offset in GICV at which its two pages adjoin.
pub fn init(distributor: HostPhys, cpu_interface: PhysRange, control: HostPhys) -> u64 {
    let first = window(cpu_interface.start()).0;
    let is_spread = cpu_interface.size() >= SPREAD
        && read(first, GICC_IIDR) == read(first + LAST_COPY, GICC_IIDR);
    let offset = if is_spread { LAST_COPY } else { 0 };
    CPU_INTERFACE.store(first + offset, Ordering::Relaxed);
    CONTROL.store(window(control).0, Ordering::Relaxed);
    registers::init(distributor, 1);
    offset
}

/// Returns the bit of this CPU in target registers.
pub fn init_this_cpu() -> Option<u64> {
    let base = registers::distributor();
    registers::init_private(base);
    write(control(), GICH_HCR, 0);
    write(cpu_interface(), GICC_PMR, 0xff);
    write(cpu_interface(), GICC_CTLR, CONTROL_BITS);
    // Each CPU sees itself as the target of its private interrupts; on one CPU they read 0.
    let target = (0..8).map(|i| read(base, ITARGETSR + i * 4)).fold(0, |all, word| all | word);
    let bits = target | target >> 16;
    let bits = (bits | bits >> 8) & 0xff;
    Some(u64::from(if bits == 0 { 1 } else { bits }))
}

pub fn acknowledge() -> u32 {
    let value = read(cpu_interface(), GICC_IAR);
    // What the sender wrote before is seen after this.
    dsb();
    value
}

pub fn drop_priority(value: u32) {
    write(cpu_interface(), GICC_EOIR, value);
}

pub fn deactivate(value: u32) {
    write(cpu_interface(), GICC_DIR, value);
}

fn generate(value: u32) {
    // What was written before is seen by who is interrupted.
    publish();
    write(registers::distributor(), SGIR, value);
}

pub fn send(number: u32, target: u64) {
    generate((target as u32) << 16 | number);
}

pub fn send_to_others(number: u32) {
    generate(TO_OTHERS | number);
}

pub fn route(number: u32, target: u64) {
    let at = registers::distributor() + ITARGETSR + u64::from(number);
    // SAFETY: a register of one byte, within the distributor.
    unsafe { (at as *mut u8).write_volatile(target as u8) };
}

pub fn list_registers() -> usize {
    (read(control(), GICH_VTR) as usize & 0x3f).min(abi::vcpu::aarch64::LIST_REGISTERS - 1) + 1
}

pub fn save(into: &mut Interface) {
    let base = control();
    into.vmcr = read(base, GICH_VMCR).into();
    into.active[0] = read(base, GICH_APR);
    let count = list_registers();
    for (i, list) in into.list.iter_mut().enumerate().take(count) {
        *list = widen(read(base, GICH_LR + i as u64 * 4));
    }
}

pub fn load(from: &Interface) {
    let base = control();
    write(base, GICH_VMCR, from.vmcr as u32);
    write(base, GICH_APR, from.active[0]);
    let count = list_registers();
    for (i, &list) in from.list.iter().enumerate().take(count) {
        write(base, GICH_LR + i as u64 * 4, narrow(list));
    }
}

pub fn set_control(value: u64) {
    write(control(), GICH_HCR, value as u32);
}

pub fn maintenance() -> u64 {
    read(control(), GICH_MISR).into()
}
