//! The total of what an execution may send, because the room is untrusted.

/// Bytes that one turn may send in all: sixteen of its largest events.
const MOST_BYTES: u64 = 256 << 20;
/// Events that one turn may send in all.
const MOST_EVENTS: u64 = 1_000_000;
/// Events that cannot be decoded in one turn. An agent that is newer than the server may send some.
const MOST_UNDECODABLE: u64 = 10_000;

/// What is left of the bytes and events that one turn may send.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    bytes: u64,
    events: u64,
    /// Events that could not be decoded; only the first is logged as a warning.
    undecodable: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes: MOST_BYTES, events: MOST_EVENTS, undecodable: 0 }
    }
}

impl Budget {
    /// Takes the bytes of a piece; the error says which limit is exceeded.
    pub(super) fn take_bytes(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.bytes.checked_sub(bytes as u64);
        self.bytes = left.ok_or_else(|| format!("it sent more than {} MiB", MOST_BYTES >> 20))?;
        Ok(())
    }

    /// Takes an event.
    pub(super) fn take_event(&mut self) -> Result<(), String> {
        let left = self.events.checked_sub(1);
        self.events = left.ok_or_else(|| format!("it sent more than {MOST_EVENTS} events"))?;
        Ok(())
    }

    /// Takes an event that could not be decoded; whether it is the first of its turn.
    pub(super) fn take_undecodable(&mut self) -> Result<bool, String> {
        self.undecodable += 1;
        if self.undecodable > MOST_UNDECODABLE {
            return Err(format!("it sent more than {MOST_UNDECODABLE} events that cannot be decoded"));
        }
        Ok(self.undecodable == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_has_a_total_of_bytes_and_events() {
        let mut budget = Budget::default();
        for _ in 0..MOST_BYTES >> 20 {
            budget.take_bytes(1 << 20).expect("within the total");
        }
        assert!(budget.take_bytes(1).is_err());
        let mut budget = Budget { events: 2, ..Budget::default() };
        assert!(budget.take_event().is_ok() && budget.take_event().is_ok() && budget.take_event().is_err());
        assert_eq!((budget.take_undecodable(), budget.take_undecodable()), (Ok(true), Ok(false)));
        for _ in 2..MOST_UNDECODABLE {
            budget.take_undecodable().expect("within the limit");
        }
        assert!(budget.take_undecodable().is_err());
    }
}
