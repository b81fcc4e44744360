//! The link between program and interface: made once, then handed from daemon to daemon.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use aya::{
    maps::MapInfo,
    programs::{
        Xdp as Program, XdpMode as AttachMode,
        links::{FdLink, PinnedLink},
        loaded_programs,
        xdp::{XdpLink, XdpLinkId},
    },
};
use aya_obj::programs::XdpAttachType;
use cache_ebpf::maps::RULES;
use tracing::warn;

use super::{
    Attachment, Cause, Origin, XdpError, XdpOptions, bpffs::Pins, errno, kernel_error,
    maps::map_error,
};
use crate::config::XdpMode;

/// How long an unpinned link may take to go away.
const DETACH_PATIENCE: Duration = Duration::from_secs(2);
const DETACH_POLL: Duration = Duration::from_millis(10);

pub fn require_interface(interface: &str) -> Result<(), XdpError> {
    let known = nix::net::if_::if_nametoindex(interface).is_ok();
    known.then_some(()).ok_or_else(|| XdpError::NoInterface {
        interface: interface.into(),
    })
}

/// How a mode is noted in the rules map; 0 is a map that nobody wrote to.
pub const fn mode_number(mode: XdpMode) -> u32 {
    match mode {
        XdpMode::Native => 1,
        XdpMode::Skb => 2,
    }
}

/// Attaches the loaded `program`, by way of the pinned link where there is one in the same mode.
pub fn attach(
    program: &mut Program,
    options: &XdpOptions,
    pins: &Pins,
    same_mode: bool,
) -> Result<Attachment, XdpError> {
    let (link, origin) = match pinned(pins)? {
        Some(link) if same_mode => match take_over(program, link, pins)? {
            Some(taken) => taken,
            None => {
                warn!(
                    interface = options.interface,
                    "the interface of the pinned XDP link is gone"
                );
                attach_anew(program, options, pins)?
            }
        },
        Some(link) => {
            warn!(interface = options.interface, mode = ?options.mode, "attaching in another mode: the XDP program is off for a moment");
            drop(link);
            attach_anew(program, options, pins)?
        }
        None => attach_anew(program, options, pins)?,
    };
    let info = link
        .info()
        .map_err(|error| kernel_error("inspect the XDP link", error))?;
    Ok(Attachment {
        link_id: info.id(),
        program_id: info.program_id(),
        mode: options.mode,
        origin,
    })
}

fn pinned(pins: &Pins) -> Result<Option<FdLink>, XdpError> {
    let path = pins.link();
    if !path.exists() {
        return Ok(None);
    }
    let link =
        PinnedLink::from_pin(path).map_err(|error| kernel_error("open the XDP link", error))?;
    Ok(Some(link.into()))
}

/// Puts `program` on the pinned link, unless the program there is the same. `None` when the
/// interface of the link is gone.
fn take_over(
    program: &mut Program,
    link: FdLink,
    pins: &Pins,
) -> Result<Option<(FdLink, Origin)>, XdpError> {
    let info = link
        .info()
        .map_err(|error| kernel_error("inspect the XDP link", error))?;
    let (updated, origin) = match same_program(program, info.program_id(), pins)? {
        // Updating a link to its own program changes nothing, and fails if the interface is gone.
        Some(mut same) => (update(&mut same, link), Origin::Kept),
        None => (update(program, link), Origin::Replaced),
    };
    match updated {
        Ok(link) => Ok(Some((link, origin))),
        Err(error) if errno(&*error) == Some(libc::ENOLINK) => Ok(None),
        Err(error) => Err(kernel_error("replace the XDP program", error)),
    }
}

/// The attached program, if it has the code of `program` and works on the pinned maps.
fn same_program(
    program: &Program,
    attached_id: u32,
    pins: &Pins,
) -> Result<Option<Program>, XdpError> {
    let rules = MapInfo::from_pin(pins.map(RULES)).map_err(|error| map_error(RULES, error))?;
    let ours = program
        .info()
        .map_err(|error| kernel_error("inspect the XDP program", error))?;
    let attached = loaded_programs()
        .flatten()
        .find(|info| info.id() == attached_id);
    let Some(attached) = attached.filter(|attached| attached.tag() == ours.tag()) else {
        return Ok(None);
    };
    let maps = attached
        .map_ids()
        .map_err(|error| kernel_error("inspect the XDP program", error))?;
    if !maps.is_some_and(|maps| maps.contains(&rules.id())) {
        return Ok(None);
    }
    Program::from_program_info(attached, super::PROGRAM.into(), XdpAttachType::Interface)
        .map(Some)
        .map_err(|error| kernel_error("open the XDP program", error))
}

fn update(program: &mut Program, link: FdLink) -> Result<FdLink, Cause> {
    let id = program.attach_to_link(XdpLink::try_from(link)?)?;
    take(program, id)
}

/// Makes a link and pins it. A link pin that is still there is removed first.
fn attach_anew(
    program: &mut Program,
    options: &XdpOptions,
    pins: &Pins,
) -> Result<(FdLink, Origin), XdpError> {
    let patience = if pins.link().exists() {
        DETACH_PATIENCE
    } else {
        Duration::ZERO
    };
    pins.remove_link()?;
    let link = attach_patiently(program, options, patience)
        .map_err(|error| attach_error(&options.interface, error))?;
    let pinned = link
        .pin(pins.link())
        .map_err(|error| kernel_error("pin the XDP link", error))?;
    Ok((pinned.into(), Origin::Attached))
}

/// Attaches, waiting up to `patience` for a link that was just unpinned: the kernel detaches it in
/// the background.
fn attach_patiently(
    program: &mut Program,
    options: &XdpOptions,
    patience: Duration,
) -> Result<FdLink, Cause> {
    let mode = match options.mode {
        XdpMode::Native => AttachMode::Driver,
        XdpMode::Skb => AttachMode::Skb,
    };
    let deadline = Instant::now() + patience;
    loop {
        let attached = program
            .attach(&options.interface, mode)
            .map_err(Cause::from);
        match attached {
            Err(error) if is_taken(&error) && Instant::now() < deadline => {
                thread::sleep(DETACH_POLL);
            }
            attached => return take(program, attached?),
        }
    }
}

/// Takes the link out of the program, which would detach it when dropped.
fn take(program: &mut Program, id: XdpLinkId) -> Result<FdLink, Cause> {
    Ok(FdLink::try_from(program.take_link(id)?)?)
}

fn is_taken(error: &Cause) -> bool {
    matches!(errno(&**error), Some(libc::EBUSY | libc::EEXIST))
}

fn attach_error(interface: &str, error: Cause) -> XdpError {
    let interface = interface.to_owned();
    match errno(&*error) {
        _ if is_taken(&error) => XdpError::Foreign { interface },
        Some(code @ (libc::EOPNOTSUPP | libc::ERANGE | libc::EINVAL)) => XdpError::Unsupported {
            interface,
            source: io::Error::from_raw_os_error(code),
        },
        _ => kernel_error("attach the XDP program", error),
    }
}
