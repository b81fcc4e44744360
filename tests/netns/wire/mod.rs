//! What goes over the wire. `cargo xtask test --quick` leaves out everything below this module.

/// Makes two tests of one function: with each of the packet backends.
macro_rules! on_both_backends {
    ($($check:ident),+ $(,)?) => {$(
        mod $check {
            use crate::harness::Backend;

            #[test]
            fn udp() {
                super::$check(Backend::Udp);
            }

            #[test]
            fn af_xdp() {
                super::$check(Backend::AfXdp);
            }
        }
    )+};
}

/// Makes a test of one function with one packet backend: for what packets have no part in.
macro_rules! on_one_backend {
    ($($check:ident),+ $(,)?) => {$(
        mod $check {
            use crate::harness::Backend;

            #[test]
            fn udp() {
                super::$check(Backend::Udp);
            }
        }
    )+};
}

mod certificates;
mod control;
mod drain;
mod early;
mod faults;
mod fetch;
mod flights;
mod generator;
mod guard;
mod herd;
mod install;
mod interim;
mod keys;
mod malformed;
mod priorities;
mod ranges;
mod reload;
mod restarts;
mod semantics;
mod service;
mod shield;
mod steering;
mod syns;
mod tcp;
mod tier;
mod tune;
mod upgrade;
mod uploads;
mod upstream;
mod variants;
