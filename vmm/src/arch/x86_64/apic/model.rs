//! Both controllers together against a simple model: for any sequence of events, priorities are obeyed, no
//! edge is lost, and a level interrupt comes again until its line falls.
use super::io::IoApic;
use super::local::{Effect, LocalApic, register};
use super::message::Message;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
enum Event {
    Line(usize, bool),
    Pulse(usize),
    Mask(usize, bool),
    Priority(u8),
    Take,
    End,
}

/// Pins 0-3 are edges, 4-7 levels; several share a priority class.
const VECTORS: [u8; 8] = [0x31, 0x35, 0x52, 0xe1, 0x33, 0x51, 0x90, 0x91];

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (4..8usize, any::<bool>()).prop_map(|(pin, high)| Event::Line(pin, high)),
        (0..4usize).prop_map(Event::Pulse),
        (0..8usize, any::<bool>()).prop_map(|(pin, masked)| Event::Mask(pin, masked)),
        (0..16u8).prop_map(|class| Event::Priority(class << 4)),
        Just(Event::Take),
        Just(Event::Take),
        Just(Event::End),
        Just(Event::End),
    ]
}

struct Machine {
    io: IoApic,
    local: LocalApic,
}

impl Machine {
    fn new() -> Machine {
        let mut local = LocalApic::new(0);
        local.write_mapped(register::SVR, 0x1ff, 0);
        let mut machine = Machine { io: IoApic::default(), local };
        for pin in 0..8 {
            machine.entry(pin, true);
        }
        machine
    }

    fn with(&mut self, act: impl FnOnce(&mut IoApic, &mut Vec<Message>)) {
        let mut sent = vec![];
        act(&mut self.io, &mut sent);
        for m in sent {
            assert!(self.local.address().is_destination(0, m.destination, false));
            self.local.accept(m.vector, m.level);
        }
    }

    fn entry(&mut self, pin: usize, masked: bool) {
        let level = u32::from(pin >= 4) << 15;
        let value = u32::from(VECTORS[pin]) | level | u32::from(masked) << 16;
        self.with(|io, sent| {
            io.write(0, 0x10 + pin as u32 * 2, |_| {});
            io.write(0x10, value, |m| sent.push(m));
        });
    }

    fn end(&mut self) {
        if let Effect::EndOfLevel(vector) = self.local.end_of_interrupt() {
            self.with(|io, sent| io.end_of_interrupt(vector, |m| sent.push(m)));
        }
    }
}

#[derive(Default)]
struct Model {
    high: BTreeSet<usize>,
    masked: BTreeSet<usize>,
    /// Edges and requests not yet taken, by pin.
    wanted: BTreeSet<usize>,
    /// Taken and not ended, by vector.
    service: Vec<u8>,
    tpr: u8,
}

impl Model {
    fn pin(vector: u8) -> usize {
        VECTORS.iter().position(|&v| v == vector).unwrap()
    }

    /// What could be taken: wanted pins that left the I/O APIC.
    fn best(&self, gone: &BTreeSet<usize>) -> Option<u8> {
        let threshold = self.service.iter().map(|v| v >> 4).max().unwrap_or(0).max(self.tpr >> 4);
        gone.iter().map(|&pin| VECTORS[pin]).filter(|v| v >> 4 > threshold).max()
    }
}

proptest! {
    #[test]
    fn obeys_priorities_and_loses_nothing(events in proptest::collection::vec(event(), 1..200)) {
        let mut machine = Machine::new();
        let mut model = Model { masked: (0..8).collect(), ..Model::default() };
        // Pins whose interrupt is in the local APIC.
        let mut gone = BTreeSet::new();
        for event in events {
            match event {
                Event::Line(pin, high) => {
                    machine.with(|io, sent| io.set_line(pin, high, |m| sent.push(m)));
                    if high && model.high.insert(pin) {
                        model.wanted.insert(pin);
                    } else if !high {
                        model.high.remove(&pin);
                        model.wanted.remove(&pin);
                    }
                }
                Event::Pulse(pin) => {
                    machine.with(|io, sent| io.pulse(pin, |m| sent.push(m)));
                    model.wanted.insert(pin);
                }
                Event::Mask(pin, masked) => {
                    machine.entry(pin, masked);
                    if masked { model.masked.insert(pin); } else { model.masked.remove(&pin); }
                }
                Event::Priority(tpr) => {
                    machine.local.write_mapped(register::TPR, tpr.into(), 0);
                    model.tpr = tpr;
                }
                Event::Take => {
                    let best = model.best(&gone);
                    prop_assert_eq!(machine.local.pending(), best);
                    prop_assert_eq!(machine.local.acknowledge(), best);
                    if let Some(vector) = best {
                        gone.remove(&Model::pin(vector));
                        model.service.push(vector);
                    }
                }
                Event::End => {
                    let ended = model.service.iter().copied().max();
                    machine.end();
                    if let Some(vector) = ended {
                        model.service.retain(|&v| v != vector);
                        let pin = Model::pin(vector);
                        if pin >= 4 && model.high.contains(&pin) {
                            model.wanted.insert(pin);
                        }
                    }
                }
            }
            // What the I/O APIC lets go: unmasked; a level only once until its end.
            for pin in model.wanted.clone() {
                let waits = pin >= 4
                    && (gone.contains(&pin) || model.service.contains(&VECTORS[pin]));
                if !model.masked.contains(&pin) && !waits {
                    model.wanted.remove(&pin);
                    gone.insert(pin);
                }
            }
        }
        // Everything unmasked and ended, all that was wanted comes.
        machine.local.write_mapped(register::TPR, 0, 0);
        let mut left: BTreeSet<u8> =
            model.wanted.iter().chain(&gone).map(|&pin| VECTORS[pin]).collect();
        for pin in 0..8 {
            machine.entry(pin, false);
        }
        for _ in 0..100 {
            machine.end();
        }
        for _ in 0..100 {
            if let Some(vector) = machine.local.acknowledge() {
                left.remove(&vector);
                let pin = Model::pin(vector);
                machine.with(|io, sent| io.set_line(pin, false, |m| sent.push(m)));
                machine.end();
            }
        }
        prop_assert!(left.is_empty(), "lost: {left:x?}");
        prop_assert_eq!(machine.local.pending(), None);
    }
}
