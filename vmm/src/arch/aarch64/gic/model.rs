//! The controller with its list registers, under vCPUs that take and end interrupts as the hardware does, against a GIC
//! without list registers: for any sequence of events the same interrupts come in the same order, none is lost and none
//! comes twice.
use super::lists::List;
use super::registers::Frame;
use super::sgi::Sgi;
use super::*;
use abi::vcpu::aarch64::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const VCPUS: usize = 3;
const SPI_COUNT: u32 = 5;

#[derive(Clone, Debug)]
enum Event {
    Pulse(u32),
    /// By whom, which, on.
    Enable(usize, u32, bool),
    Priority(usize, u32, u8),
    Target(usize, u32, usize),
    ClearPending(usize, u32),
    SetPending(usize, u32),
    /// Sender, targets, INTID.
    Sgi(usize, u8, u8),
    Groups(usize, bool),
    /// An exit for another reason.
    Exit(usize),
    Take(usize),
    End(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let vcpu = || 0..VCPUS;
    let spi = || 0..SPI_COUNT;
    prop_oneof![
        4 => spi().prop_map(Event::Pulse),
        1 => (vcpu(), spi(), any::<bool>()).prop_map(|(v, s, on)| Event::Enable(v, s, on)),
        1 => (vcpu(), spi(), 0..3u8).prop_map(|(v, s, p)| Event::Priority(v, s, 0x40 + p * 0x40)),
        1 => (vcpu(), spi(), vcpu()).prop_map(|(v, s, t)| Event::Target(v, s, t)),
        1 => (vcpu(), spi()).prop_map(|(v, s)| Event::ClearPending(v, s)),
        1 => (vcpu(), spi()).prop_map(|(v, s)| Event::SetPending(v, s)),
        2 => (vcpu(), 0..8u8, 0..3u8).prop_map(|(v, t, i)| Event::Sgi(v, t, i)),
        1 => (vcpu(), prop::bool::weighted(0.8)).prop_map(|(v, on)| Event::Groups(v, on)),
        2 => vcpu().prop_map(Event::Exit),
        8 => vcpu().prop_map(Event::Take),
        8 => vcpu().prop_map(Event::End),
    ]
}

/// An interrupt as a vCPU takes it: INTID, and of a GICv2's SGI the sender.
type Taken = (u32, u8);

#[derive(Default)]
struct Cpu {
    list: List,
    control: u64,
    /// Active interrupts with their priorities, the running one last.
    running: Vec<(Taken, u8)>,
}

struct Machine {
    gic: Gic,
    cpus: Vec<Cpu>,
}

impl Machine {
    fn new(version: Version, list_registers: u32) -> Machine {
        let mut machine = Machine {
            gic: Gic::new(version, VCPUS as u32, list_registers),
            cpus: (0..VCPUS).map(|_| Cpu::default()).collect(),
        };
        machine.write(0, 0, 4, 3);
        for vcpu in 0..VCPUS {
            if version == Version::V3 {
                machine.write_frame(vcpu, Frame::Private(vcpu), 0x80, u32::MAX.into());
                machine.write_frame(vcpu, Frame::Private(vcpu), 0x100, u32::MAX.into());
            }
        }
        if version == Version::V3 {
            machine.write(0, 0x84, 4, u32::MAX.into());
        }
        for spi in 0..SPI_COUNT {
            machine.enable(0, spi, true);
            machine.target(0, spi, 0);
        }
        machine
    }

    /// An exit of `vcpu` in which it does something, and then those of everybody who was kicked.
    fn exit(&mut self, vcpu: usize, act: impl FnOnce(&mut Gic, &mut Kicks)) {
        let mut kicks = Kicks::default();
        self.look(vcpu, act, &mut kicks);
        kicks.remove(vcpu);
        self.settle(kicks);
    }

    fn look(&mut self, vcpu: usize, act: impl FnOnce(&mut Gic, &mut Kicks), kicks: &mut Kicks) {
        let cpu = &mut self.cpus[vcpu];
        self.gic.fold(vcpu, &cpu.list);
        act(&mut self.gic, kicks);
        cpu.control = self.gic.fill(vcpu, &mut cpu.list, kicks);
    }

    fn settle(&mut self, mut kicks: Kicks) {
        for _ in 0..100 {
            let Some(vcpu) = kicks.each().next() else {
                return;
            };
            kicks.remove(vcpu);
            let mut more = Kicks::default();
            self.look(vcpu, |_, _| {}, &mut more);
            more.remove(vcpu);
            more.each().for_each(|vcpu| kicks.add(vcpu));
        }
        panic!("vCPUs kick each other for ever");
    }

    fn write_frame(&mut self, vcpu: usize, frame: Frame, offset: u32, value: u64) {
        self.exit(vcpu, |gic, kicks| {
            gic.write(vcpu, frame, offset, 4, value, kicks);
        });
    }

    fn write(&mut self, vcpu: usize, offset: u32, size: u8, value: u64) {
        self.exit(vcpu, |gic, kicks| {
            gic.write(vcpu, Frame::Distributor, offset, size, value, kicks);
        });
    }

    fn enable(&mut self, vcpu: usize, spi: u32, on: bool) {
        self.write(vcpu, if on { 0x104 } else { 0x184 }, 4, 1 << spi);
    }

    fn target(&mut self, vcpu: usize, spi: u32, target: usize) {
        match self.gic.version() {
            Version::V2 => self.write(vcpu, 0x820 + spi, 1, 1 << target),
            Version::V3 => self.write(vcpu, 0x6100 + spi * 8, 8, target as u64),
        }
    }

    fn sgi(&mut self, sender: usize, targets: u8, intid: u8) {
        let list = u64::from(targets) << 16;
        match self.gic.version() {
            Version::V2 => self.write(sender, 0xf00, 4, list | u64::from(intid)),
            Version::V3 => {
                let value = u64::from(intid) << 24 | u64::from(targets);
                let mut kicks = Kicks::default();
                let sgi = Sgi::from_system_register(value, true);
                self.gic.send(sender, sgi, &mut kicks);
                self.settle(kicks);
            }
        }
    }

    /// The virtual CPU interface asks for an exit.
    fn maintenance(&mut self, vcpu: usize) {
        let cpu = &self.cpus[vcpu];
        let pending = cpu.list.iter().any(|value| value & LIST_PENDING != 0);
        if cpu.control & GIC_NO_PENDING != 0 && !pending {
            self.exit(vcpu, |_, _| {});
        }
    }

    fn take(&mut self, vcpu: usize) -> Option<Taken> {
        let cpu = &mut self.cpus[vcpu];
        let priority = |value: u64| (value >> LIST_PRIORITY_SHIFT) as u8;
        let running = cpu.running.last().map_or(0xff, |(_, priority)| *priority);
        let best = cpu
            .list
            .iter_mut()
            .filter(|value| **value & LIST_STATE == LIST_PENDING && priority(**value) < running)
            .min_by_key(|value| (priority(**value), **value & 0x3ff))?;
        *best = *best & !LIST_STATE | LIST_ACTIVE;
        let taken = ((*best & 0x3ff) as u32, (*best >> LIST_SOURCE_SHIFT & 7) as u8);
        cpu.running.push((taken, priority(*best)));
        self.maintenance(vcpu);
        Some(taken)
    }

    fn end(&mut self, vcpu: usize) -> Option<Taken> {
        let cpu = &mut self.cpus[vcpu];
        let (taken, _) = cpu.running.pop()?;
        let value = cpu
            .list
            .iter_mut()
            .find(|value| **value & LIST_ACTIVE != 0 && (**value & 0x3ff) as u32 == taken.0)
            .expect("an active interrupt is in no list register");
        *value &= !LIST_ACTIVE;
        if *value & LIST_EOI != 0 && *value & LIST_STATE == 0 {
            self.exit(vcpu, |_, _| {});
        }
        self.maintenance(vcpu);
        Some(taken)
    }
}

/// The GIC without list registers.
struct Model {
    v2: bool,
    on: bool,
    pending: BTreeSet<u32>,
    active: BTreeSet<u32>,
    enabled: u32,
    priority: [u8; SPI_COUNT as usize],
    target: [usize; SPI_COUNT as usize],
    /// INTID and sender, of each vCPU.
    sgis: Vec<BTreeSet<Taken>>,
    running: Vec<Vec<(Taken, u8)>>,
}

impl Model {
    fn take(&mut self, vcpu: usize) -> Option<Taken> {
        let running = self.running[vcpu].last().map_or(0xff, |(_, p)| *p);
        let is_active = |intid| self.running[vcpu].iter().any(|((id, _), _)| *id == intid);
        let sgis = self.sgis[vcpu].iter();
        let sgis = sgis.filter(|(intid, _)| !is_active(*intid));
        let spis = self.pending.iter().filter(|&&spi| {
            !self.active.contains(&spi)
                && self.enabled & 1 << spi != 0
                && self.target[spi as usize] == vcpu
        });
        let all = sgis
            .map(|taken| (0, *taken))
            .chain(spis.map(|spi| (self.priority[*spi as usize], (32 + spi, 0))));
        let (priority, taken) = all.min().filter(|(priority, _)| self.on && *priority < running)?;
        if taken.0 < 16 {
            self.sgis[vcpu].remove(&taken);
        } else {
            self.pending.remove(&(taken.0 - 32));
            self.active.insert(taken.0 - 32);
        }
        self.running[vcpu].push((taken, priority));
        Some(taken)
    }

    fn end(&mut self, vcpu: usize) -> Option<Taken> {
        let (taken, _) = self.running[vcpu].pop()?;
        if taken.0 >= 32 {
            self.active.remove(&(taken.0 - 32));
        }
        Some(taken)
    }
}

fn run(version: Version, list_registers: u32, events: Vec<Event>) {
    let mut machine = Machine::new(version, list_registers);
    let mut model = Model {
        v2: version == Version::V2,
        on: true,
        pending: BTreeSet::new(),
        active: BTreeSet::new(),
        enabled: u32::MAX,
        priority: [0; SPI_COUNT as usize],
        target: [0; SPI_COUNT as usize],
        sgis: vec![BTreeSet::new(); VCPUS],
        running: vec![vec![]; VCPUS],
    };
    for event in events {
        match event {
            Event::Pulse(spi) => {
                // Device servers signal the first vCPU.
                machine.exit(0, |gic, kicks| gic.pulse(spi, kicks));
                model.pending.insert(spi);
            }
            Event::Enable(vcpu, spi, on) => {
                machine.enable(vcpu, spi, on);
                model.enabled = model.enabled & !(1 << spi) | u32::from(on) << spi;
            }
            // What an interrupt has while it is active stays with it.
            Event::Priority(_, spi, _) | Event::Target(_, spi, _)
                if model.active.contains(&spi) => {}
            Event::Priority(vcpu, spi, priority) => {
                machine.write(vcpu, 0x420 + spi, 1, priority.into());
                model.priority[spi as usize] = priority;
            }
            Event::Target(vcpu, spi, target) => {
                machine.target(vcpu, spi, target);
                model.target[spi as usize] = target;
            }
            Event::ClearPending(vcpu, spi) => {
                machine.write(vcpu, 0x284, 4, 1 << spi);
                model.pending.remove(&spi);
            }
            Event::SetPending(vcpu, spi) => {
                machine.write(vcpu, 0x204, 4, 1 << spi);
                model.pending.insert(spi);
            }
            Event::Sgi(sender, targets, intid) => {
                machine.sgi(sender, targets, intid);
                for vcpu in (0..VCPUS).filter(|vcpu| targets & 1 << vcpu != 0) {
                    let source = if model.v2 { sender as u8 } else { 0 };
                    model.sgis[vcpu].insert((intid.into(), source));
                }
            }
            Event::Groups(vcpu, on) => {
                machine.write(vcpu, 0, 4, if on { 3 } else { 0 });
                model.on = on;
            }
            Event::Exit(vcpu) => machine.exit(vcpu, |_, _| {}),
            Event::Take(vcpu) => assert_eq!(machine.take(vcpu), model.take(vcpu)),
            Event::End(vcpu) => assert_eq!(machine.end(vcpu), model.end(vcpu)),
        }
        let active = model.active.iter().fold(0, |bits, spi| bits | 1u64 << spi);
        let mut kicks = Kicks::default();
        for _ in 0..2 {
            // Who reads again reads the truth.
            kicks = Kicks::default();
            let gic = &mut machine.gic;
            gic.fold(0, &machine.cpus[0].list);
            gic.read(0, Frame::Distributor, 0x304, 4, &mut kicks);
            let cpu = &mut machine.cpus[0];
            cpu.control = gic.fill(0, &mut cpu.list, &mut kicks);
            kicks.remove(0);
            machine.settle(kicks);
        }
        let seen = machine.gic.read(0, Frame::Distributor, 0x304, 4, &mut kicks);
        assert_eq!(seen, active);
    }
    // Everything that is left comes.
    machine.write(0, 0, 4, 3);
    model.on = true;
    for vcpu in 0..VCPUS {
        loop {
            let taken = machine.take(vcpu);
            assert_eq!(taken, model.take(vcpu));
            let ended = machine.end(vcpu);
            assert_eq!(ended, model.end(vcpu));
            if taken.is_none() && ended.is_none() {
                break;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn is_a_gic_v2(list_registers in 4..6u32, events in prop::collection::vec(event(), 0..80)) {
        run(Version::V2, list_registers, events);
    }

    #[test]
    fn is_a_gic_v3(list_registers in 4..6u32, events in prop::collection::vec(event(), 0..80)) {
        run(Version::V3, list_registers, events);
    }

    /// Any access to any register is answered, and an interrupt is in one list register at most.
    #[test]
    fn no_access_is_a_danger(
        v3: bool,
        accesses in prop::collection::vec(
            (0..8usize, any::<u64>(), 0..4u32, any::<bool>(), any::<u64>()), 0..60),
    ) {
        let mut gic = Gic::new(if v3 { Version::V3 } else { Version::V2 }, 8, 4);
        let mut lists = [List::default(); 8];
        for (vcpu, address, size, write, value) in accesses {
            let mut kicks = Kicks::default();
            gic.fold(vcpu, &lists[vcpu]);
            let size = 1 << size;
            let frames = layout(address);
            if let Some((frame, offset)) = gic.frame(frames) {
                let offset = offset & !(u32::from(size) - 1);
                if write {
                    gic.write(vcpu, frame, offset, size, value, &mut kicks);
                } else {
                    gic.read(vcpu, frame, offset, size, &mut kicks);
                }
            }
            gic.pulse((value % 70) as u32, &mut kicks);
            gic.fill(vcpu, &mut lists[vcpu], &mut kicks);
            let mut spis = BTreeSet::new();
            for value in lists.iter().flatten().filter(|value| **value != 0) {
                let intid = value & 0x3ff;
                prop_assert!(intid < 96);
                prop_assert!(intid < 32 || spis.insert(intid));
            }
        }
    }
}

/// An address in one of the frames.
fn layout(number: u64) -> u64 {
    use crate::arch::aarch64::layout::*;
    match number >> 62 {
        0 => DISTRIBUTOR + number % 0x1000,
        1 => DISTRIBUTOR + number % DISTRIBUTOR_V3_SIZE,
        2 => REDISTRIBUTORS + number % (8 * REDISTRIBUTOR_SIZE),
        _ => REDISTRIBUTORS + number % 8 * REDISTRIBUTOR_SIZE + 0x1_0000 + (number >> 8) % 0x1000,
    }
}

#[test]
fn a_driver_finds_what_it_looks_for() {
    let mut kicks = Kicks::default();
    let mut v2 = Gic::new(Version::V2, 2, 4);
    let mut read = |offset, size| v2.read(1, Frame::Distributor, offset, size, &mut kicks);
    assert_eq!(read(0x004, 4), 2 | 1 << 5);
    assert_eq!(read(0x100, 4), 0xffff);
    assert_eq!(read(0x800, 4), 0x0202_0202);
    assert_eq!(read(0xfe8, 4) >> 4 & 15, 2);

    let mut v3 = Gic::new(Version::V3, 2, 4);
    let mut kicks = Kicks::default();
    assert_eq!(v3.frame(0x080a_0000 + 0x4_0000), None);
    let (frame, offset) = v3.frame(0x080a_0000 + 0x2_0008).unwrap();
    assert_eq!(frame, Frame::Redistributor(1));
    assert_eq!(v3.read(0, frame, offset, 8, &mut kicks), 1 << 32 | 1 << 8 | 1 << 4);
    assert_eq!(v3.read(0, frame, 0x14, 4, &mut kicks), 6);
    v3.write(0, frame, 0x14, 4, 0, &mut kicks);
    assert_eq!(v3.read(0, frame, 0x14, 4, &mut kicks), 0);
    let mut read = |offset| v3.read(0, Frame::Distributor, offset, 4, &mut kicks);
    assert_eq!(read(0xffe8) >> 4 & 15, 3);
    assert_eq!(read(0) & 0x50, 0x50);
    // Private interrupts are in the redistributor.
    assert_eq!(read(0x100), 0);
}
