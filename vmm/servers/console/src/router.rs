//! Where input goes: to one VM, which an escape key selects when there are several.

/// The escape key: Ctrl-T.
pub const ESCAPE: u8 = 0x14;

/// What an input byte means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The byte is for this client.
    Deliver(usize),
    /// Input goes to this client from now on.
    Selected(usize),
    /// The user asked for help, or typed what means nothing after the escape key.
    Help,
    /// Nothing yet.
    Nothing,
}

/// Selects the client that input goes to.
#[derive(Clone, Copy, Debug)]
pub struct Router {
    clients: usize,
    selected: usize,
    escaped: bool,
}

impl Router {
    /// A router for `clients` clients; the first is selected.
    pub const fn new(clients: usize) -> Router {
        Router { clients, selected: 0, escaped: false }
    }

    /// The client that input goes to, if there is one.
    pub fn selected(&self) -> Option<usize> {
        (self.selected < self.clients).then_some(self.selected)
    }

    /// Takes an input byte. With one client every byte is for it.
    pub fn feed(&mut self, byte: u8) -> Action {
        if self.clients == 0 {
            return Action::Nothing;
        }
        if self.clients == 1 {
            return Action::Deliver(0);
        }
        if !core::mem::take(&mut self.escaped) {
            if byte == ESCAPE {
                self.escaped = true;
                return Action::Nothing;
            }
            return Action::Deliver(self.selected);
        }
        match byte {
            ESCAPE => Action::Deliver(self.selected),
            b'n' | b'\t' => self.select((self.selected + 1) % self.clients),
            b'1'..=b'9' if usize::from(byte - b'1') < self.clients => {
                self.select(usize::from(byte - b'1'))
            }
            _ => Action::Help,
        }
    }

    fn select(&mut self, client: usize) -> Action {
        self.selected = client;
        Action::Selected(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::*;

    fn feed(router: &mut Router, bytes: &[u8]) -> Vec<Action> {
        bytes.iter().map(|&byte| router.feed(byte)).collect()
    }

    #[test]
    fn one_client_gets_everything() {
        assert_eq!(feed(&mut Router::new(1), &[ESCAPE, b'2']), [Deliver(0), Deliver(0)]);
        assert_eq!(feed(&mut Router::new(0), b"x"), [Nothing]);
    }

    #[test]
    fn the_escape_key_selects() {
        let mut router = Router::new(2);
        let typed = [b'a', ESCAPE, b'n', b'b', ESCAPE, b'1', ESCAPE, b'3', b'c', ESCAPE, ESCAPE];
        let actions = [
            Deliver(0),
            Nothing,
            Selected(1),
            Deliver(1),
            Nothing,
            Selected(0),
            Nothing,
            Help,
            Deliver(0),
            Nothing,
            Deliver(0),
        ];
        assert_eq!(feed(&mut router, &typed), actions);
        assert_eq!(router.selected(), Some(0));
    }
}
