//! The main thread's work: bytes between the emulated UARTs, the log and the machine's UART.
use crate::driver::{BURST, Driver};
use crate::emulated::Uart;
use crate::merger::{LONGEST_LINE, Merger, Source, Style};
use crate::ring::Ring;
use crate::router::{Action, Router};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Bytes of the log that wait to be written.
const LOG: usize = 8 << 10;
/// Bytes that are merged ahead of what the UART takes.
const STAGED: usize = 256;

/// What a line that is not ended waits for others, in milliseconds.
const PATIENCE_MS: u64 = 20;
/// How long the main thread sleeps between two looks at guests that are writing, in milliseconds.
const BURST_MS: u64 = 1;
/// How long a guest has between two batches of input, in milliseconds.
const PAUSE_MS: u64 = 1;
/// How long it relies on the UART's interrupt, in milliseconds.
const STALL_MS: u64 = 10;

/// A VM's console.
pub struct Client<'a> {
    /// The VM's name.
    pub name: &'a str,
    /// Its UART.
    pub uart: &'a dyn Uart,
}

/// Until when the main thread may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sleep {
    /// Not at all.
    No,
    /// Until this time or a notification.
    Until(u64),
    /// Until a notification.
    Forever,
}

/// State of the main thread. Times are in ticks of the machine's counter.
pub struct Server<'a> {
    driver: Option<Box<dyn Driver + 'a>>,
    clients: Vec<Client<'a>>,
    router: Router,
    merger: Merger,
    log: Ring,
    staged: VecDeque<u8>,
    ticks_per_ms: u64,
    /// What the driver was last armed for.
    armed: Option<(bool, bool)>,
    /// For each client, the end of the pause in its input.
    pauses: Vec<Option<u64>>,
}

/// A source of the merger: a ring of a client's UART, or the log's.
struct RingSource<'a>(&'a Ring);

impl Source for RingSource<'_> {
    fn next(&mut self) -> Option<u8> {
        self.0.pop()
    }
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    fn has_line(&self) -> bool {
        self.0.len() >= LONGEST_LINE || self.0.contains(b'\n')
    }
}

impl<'a> Server<'a> {
    /// A server. Without a driver output goes nowhere.
    pub fn new(
        driver: Option<Box<dyn Driver + 'a>>,
        clients: Vec<Client<'a>>,
        counter_hz: u64,
    ) -> Self {
        let ticks_per_ms = (counter_hz / 1000).max(1);
        let prefix = |client: &Client<'_>| {
            if clients.len() > 1 { format!("[{}] ", client.name) } else { String::new() }
        };
        let styles = clients.iter().map(|client| Style { prefix: prefix(client), cooked: false });
        let log = Style { prefix: String::new(), cooked: true };
        let styles = styles.chain([log]).collect();
        let server = Server {
            driver,
            router: Router::new(clients.len()),
            pauses: clients.iter().map(|_| None).collect(),
            merger: Merger::new(styles, PATIENCE_MS * ticks_per_ms),
            clients,
            log: Ring::new(LOG),
            staged: VecDeque::with_capacity(2 * STAGED),
            ticks_per_ms,
            armed: None,
        };
        if server.clients.len() > 1 {
            server.help();
        }
        server
    }

    /// The emulated UART of a client; `client` is less than the number of clients.
    pub fn uart(&self, client: usize) -> &'a dyn Uart {
        self.clients[client].uart
    }

    /// Bytes of the log that can be taken over now.
    pub fn log_room(&self) -> usize {
        self.log.free()
    }

    /// Takes over bytes of the log; what exceeds [`Server::log_room`] is lost.
    pub fn log(&self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| _ = self.log.push(byte));
    }

    fn notice(&self, text: &str) {
        self.log(format!("console: {text}\n").as_bytes());
    }

    fn help(&self) {
        let names: Vec<String> =
            self.clients.iter().zip(1..).map(|(c, i)| format!("{i} {}", c.name)).collect();
        let selected = self.router.selected().map_or("nobody", |i| self.clients[i].name);
        let names = names.join(", ");
        self.notice(&format!(
            "input goes to {selected}; Ctrl-T and a number selects ({names}), Ctrl-T n the next"
        ));
    }

    /// Does what there is to do now. `interrupted`: the UART's interrupt came.
    pub fn work(&mut self, now: u64, interrupted: bool) -> Sleep {
        let input = self.receive();
        let (output, retry) = self.transmit(now);
        let receive = self.has_room();
        let transmit = !self.staged.is_empty();
        if interrupted || self.armed != Some((receive, transmit)) {
            self.armed = Some((receive, transmit));
            if let Some(driver) = &mut self.driver {
                driver.arm(receive, transmit);
            }
        }
        if input >= BURST || output >= BURST {
            return Sleep::No;
        }
        self.pace(now).min(self.watch(now, transmit, output, retry))
    }

    /// Until when output needs no look.
    fn watch(&self, now: u64, transmit: bool, output: usize, retry: Option<u64>) -> Sleep {
        let after = |ms: u64| now.saturating_add(ms * self.ticks_per_ms);
        if transmit {
            return Sleep::Until(after(STALL_MS));
        }
        // Guests that are writing are looked at every now and then instead of at every byte.
        if output > 0 {
            return Sleep::Until(after(BURST_MS).min(retry.unwrap_or(u64::MAX)));
        }
        if let Some(retry) = retry {
            return Sleep::Until(retry);
        }
        let mut more = false;
        for client in &self.clients {
            more |= client.uart.wake_on_output();
        }
        if more { Sleep::No } else { Sleep::Forever }
    }

    /// Begins and ends pauses in the guests' input. Returns until when there is nothing to do for it.
    fn pace(&mut self, now: u64) -> Sleep {
        let mut sleep = Sleep::Forever;
        for (client, pause) in self.clients.iter().zip(&mut self.pauses) {
            if !client.uart.pauses() {
                continue;
            }
            let end = *pause.get_or_insert(now.saturating_add(PAUSE_MS * self.ticks_per_ms));
            if now >= end {
                *pause = None;
                client.uart.admit();
            } else {
                sleep = sleep.min(Sleep::Until(end));
            }
        }
        sleep
    }

    /// Whether input can be taken; if not, asks to be woken when it can.
    fn has_room(&self) -> bool {
        let Some(selected) = self.router.selected() else {
            return true;
        };
        let uart = self.clients[selected].uart;
        uart.input_room() > 0 || uart.wake_on_room()
    }

    fn receive(&mut self) -> usize {
        let mut count = 0;
        while count < BURST && self.has_room() {
            // One at a time: it may select another client.
            let Some(byte) = self.driver.as_mut().and_then(|driver| driver.receive()) else {
                break;
            };
            count += 1;
            match self.router.feed(byte) {
                // There was room.
                Action::Deliver(client) => _ = self.clients[client].uart.send(byte),
                Action::Selected(client) => {
                    self.notice(&format!("input goes to {}", self.clients[client].name));
                }
                Action::Help => self.help(),
                Action::Nothing => {}
            }
        }
        count
    }

    /// Returns the number of bytes and when to try again.
    fn transmit(&mut self, now: u64) -> (usize, Option<u64>) {
        let mut count = 0;
        let mut retry = None;
        loop {
            if self.staged.len() < STAGED {
                let rings = self.clients.iter().map(|client| client.uart.output());
                let mut sources: Vec<RingSource<'_>> =
                    rings.chain([&self.log]).map(RingSource).collect();
                let room = STAGED - self.staged.len();
                retry = self.merger.fill(&mut sources, now, &mut self.staged, room);
                self.clients.iter().for_each(|client| client.uart.output_taken());
            }
            let staged = &mut self.staged;
            let sent = match &mut self.driver {
                Some(driver) => driver.transmit(&mut || staged.pop_front()),
                None => staged.drain(..).count(),
            };
            count += sent;
            if sent == 0 || count >= BURST {
                return (count, retry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Registers;
    use crate::driver::ns16550::Ns16550 as Driver16550;
    use crate::emulated::{Emulated, Ns16550, Wires};
    use crate::registers::ns16550 as registers;
    use std::cell::RefCell;
    use std::rc::Rc;

    struct NoWires;

    impl Wires for NoWires {
        fn interrupt(&self) {}
        fn wake(&self) {}
    }

    #[derive(Default)]
    struct Line {
        sent: Vec<u8>,
        typed: VecDeque<u8>,
        space: usize,
    }

    #[derive(Clone)]
    struct FakeRegisters(Rc<RefCell<Line>>);

    impl Registers for FakeRegisters {
        fn read(&mut self, register: u16) -> u32 {
            let mut line = self.0.borrow_mut();
            let value = match register {
                registers::DATA => line.typed.pop_front().unwrap_or(0),
                registers::LSR => {
                    u8::from(!line.typed.is_empty()) | if line.space > 0 { 0x60 } else { 0 }
                }
                registers::MSR => 0xb0,
                _ => 0,
            };
            value.into()
        }
        fn write(&mut self, register: u16, value: u32) {
            let mut line = self.0.borrow_mut();
            if register == registers::DATA && line.space > 0 {
                line.space -= 1;
                line.sent.push(value as u8);
            }
        }
    }

    #[test]
    fn as_much_as_a_line_may_have_is_one() {
        let ring = Ring::new(2 * LONGEST_LINE);
        (1..LONGEST_LINE).for_each(|_| assert!(ring.push(b'x')));
        assert!(!RingSource(&ring).has_line());
        ring.push(b'x');
        assert!(RingSource(&ring).has_line());
        while ring.pop().is_some() {}
        ring.push(b'\n');
        assert!(RingSource(&ring).has_line());
    }

    #[test]
    fn two_guests_share_the_line() {
        let line = Rc::new(RefCell::new(Line::default()));
        let uarts = [(); 2].map(|()| Emulated::<Ns16550, _>::new(NoWires));
        let clients = ["red", "blue"].iter().zip(&uarts);
        let clients = clients.map(|(name, uart)| Client { name, uart }).collect();
        let driver = Driver16550::new(FakeRegisters(line.clone())).unwrap();
        let mut server = Server::new(Some(Box::new(driver)), clients, 1_000_000);
        let mut now = 0;
        let mut settle = |server: &mut Server<'_>| {
            loop {
                line.borrow_mut().space = 16;
                match server.work(now, false) {
                    Sleep::No => {}
                    Sleep::Until(time) => now = time,
                    Sleep::Forever => break,
                }
            }
            String::from_utf8(core::mem::take(&mut line.borrow_mut().sent)).unwrap()
        };
        assert!(settle(&mut server).starts_with("console: input goes to red; Ctrl-T"));
        for uart in &uarts {
            uart.write(registers::IIR_FCR, 1);
            uart.write(registers::MCR, 0x0b);
        }
        let say = |uart: &dyn Uart, text: &str| {
            text.bytes().for_each(|byte| uart.write(registers::DATA, byte.into()));
        };
        say(&uarts[0], "/ # ");
        assert_eq!(settle(&mut server), "[red] / # ");
        say(&uarts[1], "up\r\n");
        server.log(b"init: fine\n");
        assert_eq!(settle(&mut server), "\r\n[blue] up\r\ninit: fine\r\n");
        line.borrow_mut().typed.extend(b"a\x14nb");
        assert_eq!(settle(&mut server), "console: input goes to blue\r\n");
        let hear = |uart: &dyn Uart| uart.read(registers::DATA) as u8;
        assert_eq!((hear(&uarts[0]), hear(&uarts[1])), (b'a', b'b'));
        // What a guest does not read stays on the line.
        line.borrow_mut().typed.extend([b'x'; 10_000]);
        settle(&mut server);
        assert!(line.borrow().typed.len() > 5000);
        let mut read = 0;
        while uarts[1].read(registers::LSR) & 1 != 0 {
            assert_eq!(hear(&uarts[1]), b'x');
            read += 1;
            settle(&mut server);
        }
        assert_eq!(read, 10_000);
    }
}
