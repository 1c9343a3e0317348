package daemon

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"l3af/internal/api"
)

// sockets are what a daemon listens on. They stay open while those who serve on
// them come and go, in this process or in the next: a client that connects
// meanwhile waits.
type sockets struct {
	from *predecessor // whose sockets are taken over; nil: nobody's
	fds  map[string]int
	gone bool // they are another process's now
}

// listen gives a listener on an address of "unix" or "tcp".
func (s *sockets) listen(network, address string) (net.Listener, error) {
	name := network + ":" + address
	if _, ok := s.fds[name]; !ok {
		fd, err := s.open(name, network, address)
		if err != nil {
			return nil, err
		}
		s.fds[name] = fd
	}
	fd, err := unix.FcntlInt(uintptr(s.fds[name]), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	f := os.NewFile(uintptr(fd), address)
	defer f.Close()
	return net.FileListener(f)
}

func (s *sockets) open(name, network, address string) (int, error) {
	if fd, ok := s.from.take(name); ok {
		return fd, nil
	}
	var l net.Listener
	var err error
	if network == "unix" {
		if l, err = api.Listen(address); err == nil {
			l.(*net.UnixListener).SetUnlinkOnClose(false)
		}
	} else {
		l, err = net.Listen(network, address)
	}
	if err != nil {
		return -1, err
	}
	defer l.Close()
	raw, err := l.(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	// Not l.File, which could make the socket block.
	if ctlErr := raw.Control(func(of uintptr) { fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) }); ctlErr != nil {
		return -1, ctlErr
	}
	return fd, err
}

// close ends listening. Where another process goes on with it, the one before
// or the one behind us, paths stay.
func (s *sockets) close() {
	for name, fd := range s.fds {
		closeSocket(name, fd, !s.gone && s.from == nil)
	}
}

// closeSocket closes a socket, and removes its path if it is the last to.
func closeSocket(name string, fd int, last bool) {
	unix.Close(fd)
	if path, ok := strings.CutPrefix(name, "unix:"); ok && last {
		_ = os.Remove(path)
	}
}
