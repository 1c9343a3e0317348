package kernel

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// objectInfo reads the first 80 bytes of what the kernel says of a program or
// map (struct bpf_prog_info, struct bpf_map_info in linux/bpf.h), and nothing
// of what may be megabytes behind them. Older kernels leave the end zero.
func objectInfo(object interface{ FD() int }) (info [80]byte, err error) {
	attr := struct {
		fd, size uint32
		info     unsafe.Pointer
	}{uint32(object.FD()), uint32(len(info)), unsafe.Pointer(&info)}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_OBJ_GET_INFO_BY_FD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(&info)
	runtime.KeepAlive(object)
	if errno != 0 {
		return info, errno
	}
	return info, nil
}
