//! Budgets of classes of objects.

use crate::record::Header;

/// What each class of objects takes, and may take before its objects are worth the least.
#[derive(Debug)]
pub(super) struct Classes(Vec<Class>);

#[derive(Clone, Copy, Debug)]
struct Class {
    /// 0: no limit.
    budget: u64,
    used: u64,
}

impl Classes {
    pub fn new(budgets: impl Iterator<Item = u64>) -> Self {
        let class = |budget| Class { budget, used: 0 };
        Self(budgets.map(class).collect())
    }

    pub fn add(&mut self, header: &Header) {
        if let Some(class) = self.0.get_mut(usize::from(header.meta.class)) {
            class.used += header.footprint();
        }
    }

    pub fn remove(&mut self, header: &Header) {
        if let Some(class) = self.0.get_mut(usize::from(header.meta.class)) {
            class.used = class.used.saturating_sub(header.footprint());
        }
    }

    pub fn clear(&mut self) {
        self.0.iter_mut().for_each(|class| class.used = 0);
    }

    pub fn is_over(&self, class: u8) -> bool {
        let class = self.0.get(usize::from(class));
        class.is_some_and(|class| class.budget != 0 && class.used > class.budget)
    }

    /// Bytes that each class takes.
    pub fn used(&self) -> Vec<u64> {
        self.0.iter().map(|class| class.used).collect()
    }
}
