//! Quotas: the resources that all listeners of a proxy share, and how much of them each may take.
//!
//! Every listener has its own reserve. Beyond that it borrows from a common part, of which one listener gets at most a quarter and
//! all listeners of a tenant together at most half. So the clients of one tenant cannot stop those of others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::settings::Limits;

/// One listener borrows at most the common part divided by this.
const LISTENERS_PART: u64 = 4;
/// All listeners of one tenant together borrow at most the common part divided by this.
const TENANTS_PART: u64 = 2;

/// A shared resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Memory for bodies that are held to be signed, in bytes.
    Memory,
    /// Files for such bodies, in bytes.
    Disk,
    /// Buffers of tunnels, in bytes.
    Buffers,
    /// Open descriptors: of clients, of targets, of files. This also limits tasks, because each connection is one.
    Descriptors,
}

/// How much is left of each resource.
#[derive(Debug)]
struct Account([AtomicU64; 4]);

impl Account {
    fn new(amounts: [u64; 4]) -> Self {
        Self(amounts.map(AtomicU64::new))
    }

    fn part(amounts: [u64; 4], part: u64) -> Self {
        Self::new(amounts.map(|amount| amount / part))
    }

    fn take(&self, of: Resource, amount: u64) -> bool {
        let left = &self.0[of as usize];
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(amount)).is_ok()
    }

    fn give_back(&self, of: Resource, amount: u64) {
        self.0[of as usize].fetch_add(amount, Ordering::Relaxed);
    }
}

type Tenant = Option<String>;

/// The resources that the listeners of a proxy share.
#[derive(Debug)]
pub(crate) struct Shared {
    amounts: [u64; 4],
    reserves: [u64; 4],
    common: Account,
    /// The accounts of tenants that have a listener or hold resources.
    tenants: Mutex<HashMap<Tenant, Weak<Account>>>,
}

impl Shared {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        let amounts =
            [limits.held_in_memory as u64, limits.held_on_disk, limits.buffers as u64, limits.descriptors as u64];
        let reserves = [
            limits.reserved_in_memory as u64,
            limits.reserved_on_disk,
            limits.reserved_buffers as u64,
            limits.reserved_descriptors as u64,
        ];
        Arc::new(Self { amounts, reserves, common: Account::new(amounts), tenants: Mutex::default() })
    }

    /// The quota of one more listener, whose clients belong to `tenant`.
    pub(crate) fn listener(self: &Arc<Self>, tenant: Option<&str>) -> Arc<Quota> {
        Arc::new(Quota {
            reserve: Account::new(self.reserves),
            own: Account::part(self.amounts, LISTENERS_PART),
            tenant: Mutex::new(self.tenant(tenant)),
            shared: self.clone(),
        })
    }

    fn tenant(&self, tenant: Option<&str>) -> Arc<Account> {
        let mut tenants = self.tenants.lock();
        let tenant = tenant.map(str::to_owned);
        if let Some(account) = tenants.get(&tenant).and_then(Weak::upgrade) {
            return account;
        }
        tenants.retain(|_, account| account.strong_count() > 0);
        let account = Arc::new(Account::part(self.amounts, TENANTS_PART));
        tenants.insert(tenant, Arc::downgrade(&account));
        account
    }
}

/// The quota of one listener.
#[derive(Debug)]
pub(crate) struct Quota {
    shared: Arc<Shared>,
    reserve: Account,
    own: Account,
    tenant: Mutex<Arc<Account>>,
}

impl Quota {
    /// Assigns the listener to a tenant. New loans count towards this tenant; existing ones stay with the previous tenant.
    pub(crate) fn belongs_to(&self, tenant: Option<&str>) {
        *self.tenant.lock() = self.shared.tenant(tenant);
    }

    /// Takes `amount` of a resource until the share is dropped; `None` if less is left.
    pub(crate) fn take(self: &Arc<Self>, of: Resource, amount: u64) -> Option<Share> {
        let mut share = Share::new(self, of);
        share.grow(amount).then_some(share)
    }
}

/// A part of a quota, given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    quota: Arc<Quota>,
    tenant: Arc<Account>,
    of: Resource,
    reserved: u64,
    borrowed: u64,
}

impl Share {
    /// An empty share.
    pub(crate) fn new(quota: &Arc<Quota>, of: Resource) -> Self {
        Self { quota: quota.clone(), tenant: quota.tenant.lock().clone(), of, reserved: 0, borrowed: 0 }
    }

    /// Takes more, from the reserve first; false if not enough is left.
    pub(crate) fn grow(&mut self, amount: u64) -> bool {
        if self.quota.reserve.take(self.of, amount) {
            self.reserved += amount;
            return true;
        }
        let accounts = [&self.quota.own, &*self.tenant, &self.quota.shared.common];
        for (index, account) in accounts.iter().enumerate() {
            if !account.take(self.of, amount) {
                accounts[..index].iter().for_each(|account| account.give_back(self.of, amount));
                return false;
            }
        }
        self.borrowed += amount;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.quota.reserve.give_back(self.of, self.reserved);
        for account in [&self.quota.own, &*self.tenant, &self.quota.shared.common] {
            account.give_back(self.of, self.borrowed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(common: usize, reserve: usize) -> Arc<Shared> {
        Shared::new(&Limits { descriptors: common, reserved_descriptors: reserve, ..Limits::default() })
    }

    /// Takes shares of one until none is left.
    fn all_of(quota: &Arc<Quota>) -> Vec<Share> {
        std::iter::from_fn(|| quota.take(Resource::Descriptors, 1)).take(10_000).collect()
    }

    #[test]
    fn a_listener_keeps_its_reserve_whatever_others_hold() {
        let shared = shared(800, 10);
        let greedy: Vec<Arc<Quota>> = (0..8).map(|n| shared.listener(Some(if n < 4 { "a" } else { "b" }))).collect();
        let held: Vec<Vec<Share>> = greedy.iter().map(all_of).collect();
        let counts: Vec<usize> = held.iter().map(Vec::len).collect();
        assert_eq!(counts, [210, 210, 10, 10, 210, 210, 10, 10], "a quarter each, half per tenant, and the reserve");
        assert_eq!(all_of(&shared.listener(Some("c"))).len(), 10, "nothing but the reserve is left");
        drop(held);
        assert_eq!(all_of(&greedy[3]).len(), 210, "all was given back");
    }

    #[test]
    fn a_refused_request_takes_nothing() {
        let shared = shared(800, 10);
        let (one, another) = (shared.listener(None), shared.listener(None));
        assert!(one.take(Resource::Descriptors, 201).is_none());
        assert!(one.take(Resource::Descriptors, 401).is_none());
        assert_eq!((all_of(&one).len(), all_of(&another).len()), (210, 210));
    }

    #[test]
    fn borrowed_memory_stays_with_its_tenant() {
        let shared = shared(800, 0);
        let quota = shared.listener(Some("a"));
        let held = all_of(&quota);
        quota.belongs_to(Some("b"));
        let a: Vec<Arc<Quota>> = (0..2).map(|_| shared.listener(Some("a"))).collect();
        let counts: Vec<usize> = a.iter().map(all_of).map(|shares| shares.len()).collect();
        assert_eq!(counts, [200, 200], "each is given back before the next");
        let (first, second) = (all_of(&a[0]), all_of(&a[1]));
        assert_eq!((first.len(), second.len()), (200, 0), "two hundred are still held for this tenant");
        drop(held);
        assert_eq!(all_of(&a[1]).len(), 200);
    }
}
