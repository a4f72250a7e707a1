//! The memory of a defect.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Values that a defect keeps across all connections of a run, for example to act only after a certain request.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<String, String>>>);

impl Memory {
    /// The value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.lock().get(name).cloned()
    }

    /// Sets a value.
    pub fn set(&self, name: &str, value: impl Into<String>) {
        self.0.lock().insert(name.to_owned(), value.into());
    }

    /// Keeps the first value for a name, and returns it.
    pub fn first(&self, name: &str, value: &str) -> String {
        let mut all = self.0.lock();
        all.entry(name.to_owned()).or_insert_with(|| value.to_owned()).clone()
    }

    /// Keeps the highest value for a name, and returns it.
    pub fn highest(&self, name: &str, value: f64) -> f64 {
        let mut all = self.0.lock();
        let before = all.get(name).and_then(|text| text.parse().ok()).unwrap_or(f64::MIN);
        let highest = value.max(before);
        all.insert(name.to_owned(), highest.to_string());
        highest
    }

    /// Increments a counter and returns its new value.
    pub fn count(&self, name: &str) -> u64 {
        let mut all = self.0.lock();
        let now = all.get(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) + 1;
        all.insert(name.to_owned(), now.to_string());
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_remembers() {
        let memory = Memory::default();
        assert_eq!((memory.first("a", "1"), memory.first("a", "2")), ("1".to_owned(), "1".to_owned()));
        assert_eq!((memory.highest("n", 3.0), memory.highest("n", 1.0)), (3.0, 3.0));
        assert_eq!((memory.count("c"), memory.count("c")), (1, 2));
    }
}
