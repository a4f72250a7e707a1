//! What a defect knows of what it has done before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What a defect remembers, over all connections of a run: it may have to see something before it does something.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<String, String>>>);

impl Memory {
    /// What is remembered under this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Remembers something.
    pub fn set(&self, name: &str, value: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), value.into());
    }

    /// Remembers the first value for a name, and gives that.
    pub fn first(&self, name: &str, value: &str) -> String {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(name.to_owned()).or_insert_with(|| value.to_owned()).clone()
    }

    /// Remembers the highest value for a name, and gives that.
    pub fn highest(&self, name: &str, value: f64) -> f64 {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.get(name).and_then(|text| text.parse().ok()).unwrap_or(f64::MIN);
        let highest = value.max(before);
        all.insert(name.to_owned(), highest.to_string());
        highest
    }

    /// Counts.
    pub fn count(&self, name: &str) -> u64 {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
