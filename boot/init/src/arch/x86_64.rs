//! PCs: power by ACPI and the keyboard controller, VMs, exceptions.
use crate::acpi::{self, Physical, PowerOff};
use crate::guest_ram::Layout;
use crate::root::Root;
use alloc::vec::Vec;
use core::cell::RefCell;
use rt::arch;
use rt::shared::SharedMemory;
use rt::syscall::Deadline;

/// A guest's RAM: from 0 upwards. What lies between the hole's start and 4 GiB is left to devices.
pub const GUEST_RAM: Layout = Layout { start: 0, hole: Some(0xc000_0000..1 << 32) };

/// How long firmware may take to enter ACPI mode.
const ENABLE_MS: u64 = 100;

/// How long the machine may take to switch off. Hardware does at once, a hypervisor below when it gets to it.
const OFF_MS: u64 = 10_000;

/// PM1 control: sleep enable, SCI enable, place of the sleep type.
const SLEEP: u16 = 1 << 13;
const SCI: u16 = 1 << 0;
const TYPE_SHIFT: u32 = 10;
const TYPE_MASK: u16 = 7 << TYPE_SHIFT;

/// Keyboard controller: command port, and the command that resets the machine.
const KEYBOARD: u16 = 0x64;
const RESET: u8 = 0xfe;

/// The firmware's tables, mapped where they are looked for: they may lie in memory that the memory map
/// calls reserved, which is too large to be mapped whole.
struct Firmware<'a> {
    root: RefCell<&'a mut Root>,
    mapped: RefCell<Vec<(u64, SharedMemory)>>,
}

impl Firmware<'_> {
    fn is_mapped(&self, address: u64, into: &mut [u8]) -> bool {
        self.mapped.borrow().iter().any(|(base, memory)| {
            let offset = address.checked_sub(*base).and_then(|offset| usize::try_from(offset).ok());
            offset.is_some_and(|offset| memory.read(offset, into).is_ok())
        })
    }
}

impl Physical for Firmware<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        if self.is_mapped(address, into) {
            return true;
        }
        let mapping = self.root.borrow_mut().map_physical(address, into.len() as u64);
        self.mapped.borrow_mut().extend(mapping);
        self.is_mapped(address, into)
    }
}

/// Switches the machine off, or resets it if that does not work. Returns if neither does.
pub fn power_off(root: &mut Root) {
    let rsdp = root.info.rsdp;
    let firmware = Firmware { root: RefCell::new(root), mapped: RefCell::default() };
    let way = acpi::find(&firmware, rsdp);
    let root = firmware.root.into_inner();
    if let Some(way) = way {
        soft_off(root, way);
        wait(root, OFF_MS);
    }
    log::error!("the machine cannot be powered off by ACPI: it is reset instead");
    wait(root, ENABLE_MS);
    if root.open_ports(KEYBOARD, 1).is_ok() {
        // SAFETY: resets the machine, as intended; the root task is all that is left.
        unsafe { arch::port_out(KEYBOARD, RESET) };
        wait(root, ENABLE_MS);
    }
}

fn soft_off(root: &mut Root, way: PowerOff) {
    for port in [Some(way.pm1a), way.pm1b].into_iter().flatten() {
        if let Err(failure) = root.open_ports(port, 2) {
            log::error!("{failure}");
            return;
        }
    }
    // SAFETY: the FADT says that this is the PM1 control register, which the root task owns.
    let control = |port| unsafe { arch::port_in16(port) };
    if let Some((port, value)) = way.enable
        && control(way.pm1a) & SCI == 0
        && root.open_ports(port, 1).is_ok()
    {
        // SAFETY: the FADT says that this switches ACPI mode on.
        unsafe { arch::port_out(port, value) };
        let end = Deadline::after(root.ticks(ENABLE_MS));
        while control(way.pm1a) & SCI == 0 && arch::counter() < end.0 {
            root.wait(Deadline::after(root.ticks(1)));
        }
    }
    let (first, second) = way.sleep_type;
    for (port, sleep_type) in [(Some(way.pm1a), first), (way.pm1b, second)] {
        let Some(port) = port else { continue };
        let value = control(port) & !TYPE_MASK | u16::from(sleep_type) << TYPE_SHIFT | SLEEP;
        // SAFETY: enters soft-off, as intended.
        unsafe { arch::port_out16(port, value) };
    }
}

fn wait(root: &Root, ms: u64) {
    let end = Deadline::after(root.ticks(ms));
    while arch::counter() < end.0 {
        root.wait(end);
    }
}

/// What an exception is called; `vector` is the one of its message.
pub fn exception_name(vector: u64) -> &'static str {
    match vector {
        0 => "division error",
        1 => "debug exception",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound exceeded",
        6 => "invalid opcode",
        7 => "no vector unit",
        12 => "stack fault",
        13 => "general protection fault",
        14 => "page fault",
        16 | 19 => "floating-point error",
        17 => "alignment error",
        _ => "exception",
    }
}
