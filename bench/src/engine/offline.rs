//! What a cache that knows the future would miss.
//!
//! Without sizes this is Belady's rule, which is optimal: the object whose next request is
//! furthest goes, the one asked for just now included. With sizes the optimum is NP-hard, so two
//! rules that can be followed are tried and the better figure is taken for each metric: Belady's
//! again, and one by which the object with the largest product of size and time to its next
//! request goes. Neither keeps an object that nobody asks for again. So the figures are what
//! can be had, not a bound from below.

use std::collections::BTreeSet;

use super::replay::Misses;
use super::trace::{Request, Trace};

const NEVER: u64 = u64::MAX;
/// Objects whose sizes differ by less than this factor are compared by time alone.
const CLASS_STEP: f64 = 1.1;

/// The least misses found, of objects and of bytes, at `capacity`.
pub fn misses(trace: &Trace, capacity: u64) -> Misses {
    let next = next_requests(trace);
    let belady = replay(trace, &next, capacity, |_| 0);
    if !trace.sized {
        return belady;
    }
    let class = |size: u32| (f64::from(size).ln() / CLASS_STEP.ln()) as usize;
    let by_size = replay(trace, &next, capacity, class);
    Misses {
        objects: belady.objects.min(by_size.objects),
        bytes: belady.bytes.min(by_size.bytes),
    }
}

/// For each request, the number of the next one for the same object.
fn next_requests(trace: &Trace) -> Vec<u64> {
    let mut next = vec![NEVER; trace.requests.len()];
    let mut later = vec![NEVER; trace.objects as usize];
    for (number, request) in trace.requests.iter().enumerate().rev() {
        let later = &mut later[request.object as usize];
        next[number] = std::mem::replace(later, number as u64);
    }
    next
}

/// Objects of one class of size by their next request.
#[derive(Default)]
struct Class {
    order: BTreeSet<(u64, u32)>,
    size: u32,
}

fn replay(trace: &Trace, next: &[u64], capacity: u64, class: impl Fn(u32) -> usize) -> Misses {
    let mut classes: Vec<Class> = Vec::new();
    let mut cached = vec![false; trace.objects as usize];
    let sizes = sizes(trace);
    let mut used = 0;
    let mut misses = Misses::default();
    for (number, request) in trace.requests.iter().enumerate() {
        let Request { object, size } = *request;
        let class = class(size);
        if classes.len() <= class {
            classes.resize_with(class + 1, Class::default);
        }
        match cached[object as usize] {
            true => {
                classes[class].order.remove(&(number as u64, object));
                used -= u64::from(size);
                cached[object as usize] = false;
            }
            false => misses.add(size),
        }
        if next[number] == NEVER || u64::from(size) > capacity {
            continue;
        }
        classes[class].order.insert((next[number], object));
        classes[class].size = size;
        cached[object as usize] = true;
        used += u64::from(size);
        while used > capacity
            && let Some(victim) = evict(&mut classes, number as u64)
        {
            cached[victim as usize] = false;
            used -= u64::from(sizes[victim as usize]);
        }
    }
    misses
}

fn evict(classes: &mut [Class], now: u64) -> Option<u32> {
    let score = |class: &Class| {
        let (next, _) = class.order.last()?;
        Some((next - now) as f64 * f64::from(class.size))
    };
    let scored = classes.iter_mut().filter_map(|c| Some((score(c)?, c)));
    let (_, worst) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    worst.order.pop_last().map(|(_, object)| object)
}

fn sizes(trace: &Trace) -> Vec<u32> {
    let mut sizes = vec![0; trace.objects as usize];
    for request in &trace.requests {
        sizes[request.object as usize] = request.size;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(requests: &[(u64, u32)]) -> Trace {
        Trace::new("t", requests.iter().copied())
    }

    #[test]
    fn the_furthest_goes() {
        // A loop of three with room for two: two stay, the third always misses.
        let requests: Vec<_> = (0..300).map(|i| (i % 3, 1)).collect();
        let misses = misses(&trace(&requests), 2);
        assert_eq!(misses.objects, 2 + 300 / 3);
    }

    #[test]
    fn a_large_object_makes_way_for_small_ones() {
        let mut requests = Vec::new();
        for _ in 0..10 {
            requests.push((0, 90));
            requests.extend((1..10).map(|key| (key, 10)));
        }
        let misses = misses(&trace(&requests), 95);
        assert!(misses.objects <= 9 + 10, "{misses:?}");
        assert!(misses.bytes < 10 * 180, "{misses:?}");
    }
}
