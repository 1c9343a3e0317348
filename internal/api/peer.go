package api

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os/user"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"l3af/internal/gate"
)

// peer is who is at the other end of a connection.
type peer struct {
	local    bool // it came through the unix socket, and the kernel says who it is
	uid      uint32
	groups   []uint32 // primary and supplementary, when it connected
	remote   string   // its address, over TCP
	owned    bool     // over TCP: uid is whose process of this machine it is
	holder   string   // over TLS: whom its certificate names; "" without one
	stopping <-chan struct{}
	underWay *underWay // of the listener it came through
}

type peerKey struct{}

// peerOf is the peer of a request; nobody in particular when the request did
// not come through [Server.Serve].
func peerOf(ctx context.Context) *peer {
	if p, ok := ctx.Value(peerKey{}).(*peer); ok {
		return p
	}
	return &peer{remote: "unknown"}
}

// shows takes the certificate that a peer has shown over TLS, which was
// verified then.
func (p *peer) shows(s *tls.ConnectionState) {
	if s != nil && len(s.VerifiedChains) > 0 {
		p.holder = gate.Name(s.PeerCertificates[0])
	}
}

// String gives "name (uid N)", the name in a certificate and where it comes
// from, or the address of a remote peer.
func (p *peer) String() string {
	switch {
	case p.holder != "":
		return p.holder + " from " + p.remote
	case !p.local && !p.owned:
		return p.remote
	}
	uid := strconv.FormatUint(uint64(p.uid), 10)
	if u, err := user.LookupId(uid); err == nil && u.Username != "" {
		return fmt.Sprintf("%s (uid %s)", u.Username, uid)
	}
	return "uid " + uid
}

// mayWrite says why the peer may not write; nil when it may. The group is
// looked up each time, so that it may be made while the daemon runs.
//
// Over TCP write who shows a certificate and, where the listener lets them,
// root's processes: not browsers of root that some page sends here.
func (p *peer) mayWrite(r *http.Request, group string) *Problem {
	no := &Problem{Status: http.StatusForbidden, Code: CodeForbidden}
	switch {
	case p.holder != "":
		return nil
	case p.owned && p.uid != 0:
		no.Detail = fmt.Sprintf("%s may only read over TCP: permission denied", p)
		no.Hint = "root's processes may write here; others use the unix socket of l3afd"
		return no
	case p.owned:
		if err := new(http.CrossOriginProtection).Check(r); err != nil || !gate.LocalHost(r.Host) {
			no.Detail = "a page of another site may change nothing: permission denied"
			no.Hint = "the Host of a request must be localhost or a loopback address"
			return no
		}
		return nil
	case !p.local:
		no.Detail = "nothing can be changed over TCP without a certificate: permission denied"
		no.Hint = "use the unix socket of l3afd on this host, or TLS with a client's certificate (tls-client-ca)"
		return no
	}
	if p.uid == 0 {
		return nil
	}
	no.Detail = fmt.Sprintf("%s may only read: permission denied", p)
	g, err := user.LookupGroup(group)
	if err != nil {
		no.Hint = fmt.Sprintf("root may write, and members of the group %s if there were one (groupadd %[1]s)", group)
		return no
	}
	if gid, err := strconv.ParseUint(g.Gid, 10, 32); err == nil && slices.Contains(p.groups, uint32(gid)) {
		return nil
	}
	no.Hint = fmt.Sprintf("root and members of the group %s may write (a new member must log in again)", group)
	return no
}

// identify asks the kernel who connected: over TCP only where it matters. Who
// is not known then can only read.
func identify(c net.Conn, owners bool, log *slog.Logger) (*peer, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		p := &peer{remote: c.RemoteAddr().String()}
		if owners {
			uid, err := gate.Owner(c)
			if err != nil {
				log.Debug("the owner of a connection is not known", "error", err)
			}
			p.uid, p.owned = uid, err == nil
		}
		return p, nil
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &peer{local: true}
	ctlErr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			err = fmt.Errorf("SO_PEERCRED: %w", err)
			return
		}
		p.uid = cred.Uid
		if p.groups, err = peerGroups(fd); err != nil {
			err = fmt.Errorf("SO_PEERGROUPS: %w", err)
			return
		}
		p.groups = append(p.groups, cred.Gid)
	})
	if ctlErr != nil {
		return nil, ctlErr
	}
	return p, err
}

// peerGroups reads SO_PEERGROUPS (socket(7), Linux 4.13), which x/sys has no
// function for: an array of gid_t as long as it takes.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == unix.ERANGE && int(size) > len(groups)*4:
			groups = make([]uint32, (size+3)/4)
		case errno != 0:
			return nil, errno
		default:
			return groups[:size/4], nil
		}
	}
}
