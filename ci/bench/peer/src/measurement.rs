//! A measurement: a virtual machine with the guest, served until the guest is done.

use bench_guest::summary::SAMPLES;
use bench_guest::{Request, Row, place, results};

use crate::arch::{self, Variant};
use crate::kvm::{Exit, Kvm, Vcpu};
use crate::linux::{Memory, Result};
use crate::{print_line, signaller};

/// The guest's image.
const IMAGE: &core::ffi::CStr = c"/guest";

/// Size of the page that comes and goes.
const PAGE_SIZE: usize = 4096;

/// What is measured by one guest.
#[derive(Clone, Copy, Debug)]
pub struct Measurement {
    /// The rows: a bit each.
    pub rows: u64,
    /// Number of vCPUs.
    pub vcpus: usize,
    /// What follows the rows' names.
    pub suffix: &'static str,
    /// What the machine is like.
    pub variant: Variant,
}

/// How a guest ended.
enum End {
    Complete,
    Failed,
    /// KVM's number of the exit that is not to be expected.
    Unknown(u32),
}

impl Measurement {
    /// Measures, and prints the rows.
    pub fn run(self, kvm: Kvm) -> Result {
        let vm = kvm.create_vm()?;
        let ram = Memory::new((place::RAM.end - place::RAM.start) as usize)?;
        let page = Memory::new(PAGE_SIZE)?;
        for (slot, address, memory) in [(0, place::RAM.start, ram), (1, place::PAGE, page)] {
            // SAFETY: it is never unmapped, and accessed as such memory has to be.
            unsafe { vm.set_memory(slot, address, memory.start(), memory.size()) }?;
        }
        self.variant.prepare(vm)?;
        ram.fill(IMAGE)?;
        let first = kvm.create_vcpu(vm, 0)?;
        arch::prepare_vcpu(kvm, vm, first)?;
        let second = match self.vcpus {
            1 => None,
            _ => Some(kvm.create_vcpu(vm, 1)?),
        };
        if let Some(second) = second {
            arch::prepare_vcpu(kvm, vm, second)?;
        }
        let arguments = self.variant.complete(vm, self.rows)?;
        ram.write(place::ARGUMENTS - place::RAM.start, arguments);
        signaller::serve(vm, ram, arch::counter_lag(first, &page)?);
        if let Some(second) = second {
            arch::start(second, 1)?;
            second.run_beside()?;
        }
        arch::start(first, 0)?;
        let end = serve(first, page)?;
        self.report(end, ram);
        Ok(())
    }

    /// Prints the rows.
    fn report(self, end: End, ram: Memory) {
        let read = |offset| ram.read(offset);
        let suffix = self.suffix;
        let failed = results::current(read).map_or("", Row::name);
        for row in Row::ALL.iter().filter(|row| self.rows & row.bit() != 0) {
            let name = row.name();
            match (results::summary(*row, read), &end) {
                (Some(s), _) => print_line!(
                    "bench: {name}{suffix} {} {} {} {} {SAMPLES} {}",
                    s.min,
                    s.median,
                    s.p99,
                    s.max,
                    s.first,
                ),
                (None, End::Complete) => {
                    print_line!("bench: {name}{suffix} unavailable: the guest does not measure it")
                }
                (None, End::Failed) => {
                    print_line!("bench: {name}{suffix} unavailable: the guest failed at {failed}")
                }
                (None, End::Unknown(exit)) => print_line!(
                    "bench: {name}{suffix} unavailable: KVM's exit {exit} came at {failed}"
                ),
            }
        }
    }
}

/// Runs vCPU 0 until the guest is done, and answers what it asks for: the least of a monitor.
fn serve(vcpu: Vcpu, page: Memory) -> Result<End> {
    let mut value = 0;
    loop {
        match vcpu.run()? {
            Exit::PortRead(port) if port == place::PORT.into() => {
                vcpu.answer_port(place::PORT_VALUE)
            }
            Exit::Read(place::VALUE) => vcpu.answer(value),
            Exit::Write(place::VALUE, new) => value = new,
            Exit::Write(place::REQUEST, code) => match Request::from_code(code) {
                Some(Request::End) => return Ok(End::Complete),
                Some(Request::TakePage) => page.unmap_for_now()?,
                Some(Request::Interrupt) => signaller::ask()?,
                Some(Request::Failed) | None => return Ok(End::Failed),
            },
            Exit::PortRead(_) => return Ok(End::Unknown(2)),
            Exit::Read(_) | Exit::Write(..) => return Ok(End::Unknown(6)),
            Exit::Other(exit) => return Ok(End::Unknown(exit)),
        }
    }
}
