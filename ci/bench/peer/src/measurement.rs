//! A measurement: a virtual machine with the guest, served until the guest is done.

use core::fmt;

use bench_guest::arch::ROWS;
use bench_guest::summary::{SAMPLES, Summary};
use bench_guest::{Request, Row, place, results};

use crate::arch::{self, Variant};
use crate::kvm::{Exit, Kvm, Vcpu};
use crate::linux::{Failure, Memory};
use crate::{print_line, signaller};

/// The guest's image.
const IMAGE: &core::ffi::CStr = c"/guest";

/// Size of the page that comes and goes.
const PAGE_SIZE: usize = 4096;

/// What is measured by one guest.
#[derive(Clone, Copy, Debug)]
pub struct Measurement {
    /// The only row that it is asked for.
    pub row: Row,
    /// What follows the row's name.
    pub suffix: &'static str,
    /// What the machine is like.
    pub variant: Variant,
}

/// Why there are no figures.
enum Lack {
    /// Linux refuses something.
    Refused(Failure),
    /// The guest says so.
    Failed,
    /// An exit that is not to be expected.
    Unknown(Exit),
    /// The guest does not know the row.
    Unmeasured,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::Refused(failure) => failure.fmt(f),
            Lack::Failed => f.write_str("the guest failed"),
            Lack::Unknown(exit) => write!(f, "the guest made {exit}"),
            Lack::Unmeasured => f.write_str("the guest does not measure it"),
        }
    }
}

impl From<Failure> for Lack {
    fn from(failure: Failure) -> Lack {
        Lack::Refused(failure)
    }
}

/// All measurements.
pub fn all() -> impl Iterator<Item = Measurement> {
    let usual = |row: &Row| Measurement { row: *row, suffix: "", variant: Variant::usual() };
    ROWS.iter().map(usual).chain(arch::variations())
}

impl Measurement {
    /// Measures, and prints the row.
    pub fn run(self, kvm: Kvm) {
        let (name, suffix) = (self.row.name(), self.suffix);
        match self.measure(kvm) {
            Ok(s) => print_line!(
                "bench: {name}{suffix} {} {} {} {} {SAMPLES} {}",
                s.min,
                s.median,
                s.p99,
                s.max,
                s.first,
            ),
            Err(lack) => print_line!("bench: {name}{suffix} unavailable: {lack}"),
        }
    }

    fn measure(self, kvm: Kvm) -> core::result::Result<Summary, Lack> {
        let vm = kvm.create_vm()?;
        let ram = Memory::new((place::RAM.end - place::RAM.start) as usize)?;
        let page = Memory::new(PAGE_SIZE)?;
        vm.set_memory(0, place::RAM.start, ram)?;
        vm.set_memory(1, place::PAGE, page)?;
        self.variant.prepare(vm)?;
        ram.fill(IMAGE)?;
        let first = kvm.create_vcpu(vm, 0)?;
        arch::prepare_vcpu(kvm, vm, first)?;
        let second = match self.row {
            Row::Ipi => {
                let second = kvm.create_vcpu(vm, 1)?;
                arch::prepare_vcpu(kvm, vm, second)?;
                Some(second)
            }
            _ => None,
        };
        let arguments = self.variant.complete(vm, self.row.bit())?;
        ram.write(place::ARGUMENTS - place::RAM.start, arguments);
        signaller::serve(vm, ram, arch::counter_lag(first, &page)?);
        if let Some(second) = second {
            arch::start(second, 1)?;
            second.run_beside()?;
        }
        arch::start(first, 0)?;
        signaller::end_halts((self.row == Row::HaltWake).then_some(vm))?;
        let end = serve(first, page);
        signaller::end_halts(None)?;
        end?;
        results::summary(self.row, |offset| ram.read(offset)).ok_or(Lack::Unmeasured)
    }
}

/// Runs vCPU 0 until the guest is done, and answers what it asks for: the least of a monitor.
fn serve(vcpu: Vcpu, page: Memory) -> core::result::Result<(), Lack> {
    let mut value = 0;
    loop {
        match vcpu.run()? {
            Exit::PortRead(port) if port == place::PORT.into() => {
                vcpu.answer_port(place::PORT_VALUE)
            }
            Exit::Read(place::VALUE) => vcpu.answer(value),
            Exit::Write(place::VALUE, new) => value = new,
            Exit::Write(place::REQUEST, code) => match Request::from_code(code) {
                Some(Request::End) => return Ok(()),
                Some(Request::TakePage) => page.unmap_for_now()?,
                Some(Request::Interrupt) => signaller::ask()?,
                Some(Request::Failed) | None => return Err(Lack::Failed),
            },
            other => return Err(Lack::Unknown(other)),
        }
    }
}
