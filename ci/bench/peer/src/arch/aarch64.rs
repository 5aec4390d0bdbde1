//! AArch64.

use core::arch::asm;

use bench_guest::arch::{CPU_INTERFACE, DISTRIBUTOR, INTERRUPT, REDISTRIBUTORS};
use bench_guest::{Arguments, place};

use crate::kvm::{Exit, Kvm, Vcpu, Vm, exchange, read, write};
use crate::linux::{Failure, File, Memory, Request, Result};
use crate::measurement::Measurement;

const IRQ_LINE: Request = write::<Line>("KVM_IRQ_LINE", 0x61);
const GET_ONE_REG: Request = write::<Register>("KVM_GET_ONE_REG", 0xab);
const SET_ONE_REG: Request = write::<Register>("KVM_SET_ONE_REG", 0xac);
const ARM_VCPU_INIT: Request = write::<Target>("KVM_ARM_VCPU_INIT", 0xae);
const ARM_PREFERRED_TARGET: Request = read::<Target>("KVM_ARM_PREFERRED_TARGET", 0xaf);
const CREATE_DEVICE: Request = exchange::<Device>("KVM_CREATE_DEVICE", 0xe0);

#[repr(C)]
struct Line {
    number: u32,
    level: u32,
}

#[repr(C)]
struct Register {
    number: u64,
    address: u64,
}

#[repr(C)]
#[derive(Default)]
struct Target {
    target: u32,
    features: [u32; 7],
}

#[repr(C)]
struct Device {
    kind: u32,
    file: u32,
    flags: u32,
}

/// KVM's number of the general register x0; those of the others follow in steps of two.
const X0: u64 = 0x6030_0000_0010_0000;
/// KVM's number of the program counter.
const PC: u64 = X0 + 0x40;

/// An interrupt controller: its version, KVM's number of the device, and KVM's numbers of its parts with their addresses.
struct Controller {
    version: u64,
    kind: u32,
    parts: [(u64, u64); 2],
}

/// A machine has one of them for its guests.
const CONTROLLERS: [Controller; 2] = [
    Controller { version: 3, kind: 7, parts: [(2, DISTRIBUTOR), (3, REDISTRIBUTORS)] },
    Controller { version: 2, kind: 5, parts: [(0, DISTRIBUTOR), (1, CPU_INTERFACE)] },
];

/// What differs between guests: nothing.
#[derive(Clone, Copy, Debug)]
pub struct Variant;

/// What is measured beside what the guest does under any monitor: nothing.
pub fn variations() -> impl Iterator<Item = Measurement> {
    core::iter::empty()
}

impl Variant {
    /// The only one.
    pub fn usual() -> Variant {
        Variant
    }

    /// Gives a machine what has to be there before its vCPUs.
    pub fn prepare(self, vm: Vm) -> Result {
        vm.set_doorbell(place::DOORBELL, 0, false)
    }

    /// Gives a machine what can only be there after its vCPUs. Returns what the guest is told.
    pub fn complete(self, vm: Vm, rows: u64) -> Result<Arguments> {
        let (controller, device) = create_controller(vm)?;
        for (number, address) in controller.parts {
            const ADDRESSES: u32 = 0;
            device.set_attribute(ADDRESSES, number, &address)?;
        }
        const CONTROL: u32 = 4;
        const INITIALISE: u64 = 0;
        device.set_attribute(CONTROL, INITIALISE, &0)?;
        Ok(Arguments { rows, port_doorbell: 0, vmmcall: 0, gic: controller.version })
    }
}

/// Gives a machine the interrupt controller that the hardware's can be.
fn create_controller(vm: Vm) -> Result<(&'static Controller, File)> {
    let create = |controller: &Controller| {
        let mut device = Device { kind: controller.kind, file: 0, flags: 0 };
        // SAFETY: it writes no more than the structure.
        unsafe { vm.file.control(CREATE_DEVICE, &raw mut device as usize) }?;
        Ok(File::from_number(device.file))
    };
    let [newer, older] = &CONTROLLERS;
    create(newer).map(|file| (newer, file)).or_else(|_: Failure| Ok((older, create(older)?)))
}

/// Makes a vCPU what the machine's CPU is.
pub fn prepare_vcpu(_kvm: Kvm, vm: Vm, vcpu: Vcpu) -> Result {
    let mut target = Target::default();
    // SAFETY: it writes the structure.
    unsafe { vm.file.control(ARM_PREFERRED_TARGET, &raw mut target as usize) }?;
    // SAFETY: it reads the structure.
    unsafe { vcpu.file.pass(ARM_VCPU_INIT, &target) }
}

/// Brings a vCPU into the state that the guest starts in. The other registers have that after a reset.
pub fn start(vcpu: Vcpu, number: usize) -> Result {
    set_register(vcpu, X0, number as u64)?;
    set_register(vcpu, PC, place::RAM.start)
}

fn set_register(vcpu: Vcpu, number: u64, value: u64) -> Result {
    let register = Register { number, address: &raw const value as u64 };
    // SAFETY: it reads the value.
    unsafe { vcpu.file.pass(SET_ONE_REG, &register) }
}

fn register(vcpu: Vcpu, number: u64) -> Result<u64> {
    let mut value = 0_u64;
    let register = Register { number, address: &raw mut value as u64 };
    // SAFETY: it writes the value.
    unsafe { vcpu.file.pass(GET_ONE_REG, &register) }?;
    Ok(value)
}

/// How far the guest's counter is behind this program's. KVM sets it to 0 when it makes a vCPU, and does not tell when that was, but
/// lets a guest read the physical counter too, which is this program's: that of a Linux that hosts guests has no offset. `page` is
/// the guest's memory at [`place::PAGE`].
pub fn counter_lag(vcpu: Vcpu, page: &Memory) -> Result<u64> {
    /// Reads the virtual, the physical and the virtual counter, and writes to where x0 points.
    const READ_COUNTERS: [u32; 5] = [
        0xd503_3fdf, // isb
        0xd53b_e041, // mrs x1, cntvct_el0
        0xd53b_e022, // mrs x2, cntpct_el0
        0xd53b_e043, // mrs x3, cntvct_el0
        0xb900_0001, // str w1, [x0]
    ];
    for (i, instruction) in READ_COUNTERS.into_iter().enumerate() {
        page.write(i as u64 * 4, instruction);
    }
    set_register(vcpu, X0, place::REQUEST)?;
    set_register(vcpu, PC, place::PAGE)?;
    let Exit::Write(place::REQUEST, _) = vcpu.run()? else {
        return Err(Failure { what: "comparing counters", code: 0 });
    };
    let counter = |x: u64| register(vcpu, X0 + 2 * x);
    let (before, physical, after) = (counter(1)?, counter(2)?, counter(3)?);
    Ok(physical.wrapping_sub(before.midpoint(after)))
}

/// The counter.
#[inline(always)]
pub fn counter() -> u64 {
    let count;
    // SAFETY: user programs may read it.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack)) };
    count
}

/// Raises the interrupt that the guest asks for.
#[inline(always)]
pub fn interrupt(vm: Vm) -> Result {
    /// A shared interrupt.
    const SHARED: u32 = 1 << 24;
    // An edge.
    for level in [1, 0] {
        let line = Line { number: SHARED | INTERRUPT, level };
        // SAFETY: it reads the structure.
        unsafe { vm.file.pass(IRQ_LINE, &line) }?;
    }
    Ok(())
}
