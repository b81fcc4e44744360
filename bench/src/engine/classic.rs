//! Plain LRU and plain LFU, exact: what a policy must not lose to.

use std::collections::BTreeSet;

use super::replay::Cache;
use super::trace::Request;

/// Evicts what was asked for the longest time ago.
pub struct Lru(Ordered);

/// Evicts what was asked for least often since it came in, the least recent first.
pub struct Lfu(Ordered);

impl Lru {
    pub fn new(capacity: u64) -> Self {
        Self(Ordered::new(capacity))
    }
}

impl Lfu {
    pub fn new(capacity: u64) -> Self {
        Self(Ordered::new(capacity))
    }
}

impl Cache for Lru {
    fn request(&mut self, request: Request) -> bool {
        self.0.request(request, |_| 0)
    }
}

impl Cache for Lfu {
    fn request(&mut self, request: Request) -> bool {
        self.0.request(request, |hits| hits + 1)
    }
}

/// Objects by rank and then by time.
struct Ordered {
    capacity: u64,
    used: u64,
    clock: u64,
    /// By object: rank and time, where it is cached.
    places: Vec<Option<(u64, u64)>>,
    order: BTreeSet<(u64, u64, Sized)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Sized {
    object: u32,
    size: u32,
}

impl Ordered {
    fn new(capacity: u64) -> Self {
        Self {
            capacity,
            used: 0,
            clock: 0,
            places: Vec::new(),
            order: BTreeSet::new(),
        }
    }

    fn request(&mut self, request: Request, rank: impl Fn(u64) -> u64) -> bool {
        let Request { object, size } = request;
        let sized = Sized { object, size };
        self.clock += 1;
        let at = object as usize;
        if self.places.len() <= at {
            self.places.resize(at + 1, None);
        }
        let former = self.places[at].take();
        if let Some((rank, time)) = former {
            self.order.remove(&(rank, time, sized));
            self.used -= u64::from(size);
        }
        if u64::from(size) <= self.capacity {
            self.make_room(self.capacity - u64::from(size));
            let place = (former.map_or(0, |(former, _)| rank(former)), self.clock);
            self.places[at] = Some(place);
            self.order.insert((place.0, place.1, sized));
            self.used += u64::from(size);
        }
        former.is_some()
    }

    fn make_room(&mut self, wanted: u64) {
        while self.used > wanted
            && let Some((_, _, victim)) = self.order.pop_first()
        {
            self.places[victim.object as usize] = None;
            self.used -= u64::from(victim.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(cache: &mut impl Cache, objects: &[u32]) -> Vec<bool> {
        let request = |object: &u32| {
            cache.request(Request {
                object: *object,
                size: 10,
            })
        };
        objects.iter().map(request).collect()
    }

    #[test]
    fn the_least_recent_or_the_least_frequent_goes() {
        let requests = [1, 1, 1, 2, 3, 1, 4, 2];
        let lru = hits(&mut Lru::new(20), &requests);
        assert_eq!(lru, [false, true, true, false, false, false, false, false]);
        let lfu = hits(&mut Lfu::new(20), &requests);
        assert_eq!(lfu, [false, true, true, false, false, true, false, false]);
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let mut lru = Lru::new(9);
        assert_eq!(hits(&mut lru, &[1, 1]), [false, false]);
        assert_eq!(lru.0.used, 0);
    }
}
