package gate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// established is TCP_ESTABLISHED (enum in net/tcp_states.h).
const established = 1

// Owner is the user who made the socket at the other end of a connection
// within this network namespace. It fails when that end is not here, or does
// not hold its socket any more.
//
// The kernel finds the socket by exactly both addresses and ports. That it is
// the connection's other end, and not one that was bound to the same port
// later, is sure because the connection itself is still established
// afterwards: two cannot have the same addresses and ports at a time. A socket
// that its process has closed belongs to root for the kernel (sock_i_uid in
// net/core/sock.c); it is not established, and has no inode.
func Owner(c net.Conn) (uid uint32, err error) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return 0, errors.New("not a TCP connection")
	}
	here, err := addressOf(c.LocalAddr())
	if err != nil {
		return 0, err
	}
	there, err := addressOf(c.RemoteAddr())
	if err != nil {
		return 0, err
	}
	s, err := findSocket(there, here)
	if err != nil {
		return 0, fmt.Errorf("ask for the owner of %s: %w", there, err)
	}
	if s.state != established || s.inode == 0 || s.local != there || s.remote != here {
		return 0, fmt.Errorf("the socket %s is closed", there)
	}
	if state, err := stateOf(tcp); err != nil {
		return 0, err
	} else if state != established {
		return 0, fmt.Errorf("the connection from %s is closed", there)
	}
	return s.uid, nil
}

// stateOf is the TCP state of a connection of ours.
func stateOf(c *net.TCPConn) (state uint8, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	ctlErr := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			state = info.State
		}
	})
	return state, errors.Join(ctlErr, err)
}

// socket is what the kernel says of one.
type socket struct {
	state         uint8
	local, remote netip.AddrPort
	uid, inode    uint32
}

// diagRequest is struct inet_diag_req_v2 (linux/inet_diag.h): TCP, any cookie.
type diagRequest struct{ local, remote netip.AddrPort }

const (
	diagRequestSize = 56
	diagMessageSize = 72 // struct inet_diag_msg
	sockID          = 8  // offset of struct inet_diag_sockid in the request
	messageID       = 4  // and in the answer
)

func (r *diagRequest) Len() int { return diagRequestSize }

func (r *diagRequest) Serialize() []byte {
	b := make([]byte, diagRequestSize)
	b[0], b[1] = family(r.local.Addr()), unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0)) // in any state
	id := b[sockID:]
	binary.BigEndian.PutUint16(id[0:], r.local.Port())
	binary.BigEndian.PutUint16(id[2:], r.remote.Port())
	copy(id[4:20], r.local.Addr().AsSlice())
	copy(id[20:36], r.remote.Addr().AsSlice())
	copy(id[40:48], "\xff\xff\xff\xff\xff\xff\xff\xff") // INET_DIAG_NOCOOKIE
	return b
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// findSocket asks for the one socket with these addresses (SOCK_DIAG_BY_FAMILY
// without NLM_F_DUMP, sock_diag(7)).
func findSocket(local, remote netip.AddrPort) (socket, error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	req.AddData(&diagRequest{local, remote})
	answers, err := req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return socket{}, err
	}
	if len(answers) != 1 {
		return socket{}, fmt.Errorf("%d answers", len(answers))
	}
	return readSocket(answers[0])
}

func readSocket(b []byte) (s socket, err error) {
	if len(b) < diagMessageSize {
		return s, fmt.Errorf("an answer of %d bytes", len(b))
	}
	size := 16
	if b[0] == unix.AF_INET {
		size = 4
	}
	id := b[messageID:]
	end := func(port, addr []byte) netip.AddrPort {
		ip, _ := netip.AddrFromSlice(addr[:size])
		return netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(port))
	}
	s.state = b[1]
	s.local, s.remote = end(id[0:], id[4:]), end(id[2:], id[20:])
	s.uid, s.inode = binary.NativeEndian.Uint32(b[64:]), binary.NativeEndian.Uint32(b[68:])
	return s, nil
}
