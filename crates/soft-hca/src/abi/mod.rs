//! The C ABI: the functions of libibverbs and libmlx5 that devx clients call.
//!
//! Every pointer that a client hands back is looked up before it is used, so a
//! stale or foreign one is refused with `EINVAL` and never dereferenced.

mod channel;
mod device;
mod devx;
mod errno;
mod events;
#[cfg(feature = "export")]
mod exported;
mod extended;
mod handle;
mod memory;
#[cfg(feature = "export")]
mod names;
mod port;

use mlx5gda_sys::table::{FnTable, Functions};

use crate::config::Config;
use crate::error::Error;
use crate::registry;

/// The functions of this software HCA as a table.
///
/// Makes sure that the devices of `config` exist. The device list that the
/// calling thread gets from now on holds these devices and no others; a thread
/// that never called this sees all devices of the process.
///
/// # Errors
/// [`Error`] if no automatic address is free, or a device is open with another MTU. An
/// address of the configuration that somebody else has shows when the device is opened.
pub fn fn_table(config: Config) -> Result<FnTable, Error> {
    registry::install(&config)?;
    Ok(FnTable::from_static(FUNCTIONS))
}

const FUNCTIONS: Functions = Functions {
    ibv_get_device_list: device::ibv_get_device_list,
    ibv_free_device_list: device::ibv_free_device_list,
    ibv_get_device_name: device::ibv_get_device_name,
    ibv_open_device: device::ibv_open_device,
    ibv_close_device: device::ibv_close_device,
    ibv_query_device: port::ibv_query_device,
    ibv_query_port: port::ibv_query_port,
    ibv_query_gid: port::ibv_query_gid,
    _ibv_query_gid_ex: port::_ibv_query_gid_ex,
    ibv_alloc_pd: memory::ibv_alloc_pd,
    ibv_dealloc_pd: memory::ibv_dealloc_pd,
    ibv_reg_mr: memory::ibv_reg_mr,
    ibv_reg_mr_iova2: memory::ibv_reg_mr_iova2,
    ibv_reg_dmabuf_mr: memory::ibv_reg_dmabuf_mr,
    ibv_dereg_mr: memory::ibv_dereg_mr,
    ibv_create_ah: port::ibv_create_ah,
    ibv_destroy_ah: port::ibv_destroy_ah,
    ibv_get_async_event: events::ibv_get_async_event,
    ibv_ack_async_event: events::ibv_ack_async_event,
    mlx5dv_is_supported: device::mlx5dv_is_supported,
    mlx5dv_open_device: device::mlx5dv_open_device,
    mlx5dv_init_obj: devx::mlx5dv_init_obj,
    mlx5dv_devx_general_cmd: devx::mlx5dv_devx_general_cmd,
    mlx5dv_devx_obj_create: devx::mlx5dv_devx_obj_create,
    mlx5dv_devx_obj_query: devx::mlx5dv_devx_obj_query,
    mlx5dv_devx_obj_modify: devx::mlx5dv_devx_obj_modify,
    mlx5dv_devx_obj_destroy: devx::mlx5dv_devx_obj_destroy,
    mlx5dv_devx_umem_reg: memory::mlx5dv_devx_umem_reg,
    mlx5dv_devx_umem_dereg: memory::mlx5dv_devx_umem_dereg,
    mlx5dv_devx_alloc_uar: memory::mlx5dv_devx_alloc_uar,
    mlx5dv_devx_free_uar: memory::mlx5dv_devx_free_uar,
    mlx5dv_devx_query_eqn: devx::mlx5dv_devx_query_eqn,
    mlx5dv_devx_create_event_channel: channel::mlx5dv_devx_create_event_channel,
    mlx5dv_devx_destroy_event_channel: channel::mlx5dv_devx_destroy_event_channel,
    mlx5dv_devx_subscribe_devx_event: channel::mlx5dv_devx_subscribe_devx_event,
    mlx5dv_devx_subscribe_devx_event_fd: channel::mlx5dv_devx_subscribe_devx_event_fd,
    mlx5dv_devx_get_event: channel::mlx5dv_devx_get_event,
};
