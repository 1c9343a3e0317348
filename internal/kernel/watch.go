package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long events are gathered into one.
	settle = 50 * time.Millisecond
	// poll is how often named namespaces are looked for: nothing tells when
	// one comes, or when a name gets another.
	poll = time.Second
)

// Watch calls changed after interfaces of the daemon's own or a named network
// namespace come, go or change, and after such a namespace does, until ctx
// ends; and once when it begins to listen, for what came before. It asks names for the namespaces about once a second. Calls do not
// overlap. An error says that nothing is heard any more.
func (k *Kernel) Watch(ctx context.Context, names func() []string, changed func()) error {
	// One socket hears all namespaces that have an id in ours. Sockets inside
	// of them would keep them alive after `ip netns del`.
	socket, err := nl.SubscribeAt(netns.None(), netns.None(), unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NSID)
	if err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	if err := unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1); err != nil {
		k.log.Warn("interfaces of named network namespaces are not watched", "error", err)
	}
	events := make(chan struct{}, 1)
	event := func() {
		select {
		case events <- struct{}{}:
		default:
		}
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	defer socket.Close()
	deaf := make(chan error, 1)
	wait.Go(func() {
		for {
			_, _, err := socket.Receive()
			// ENOBUFS says that messages were lost, which is an event too.
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				deaf <- err
				return
			}
			event()
		}
	})

	there := k.namespaces(names())
	event()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-deaf:
			return fmt.Errorf("watch interfaces: %w", err)
		case <-ticker.C:
			now := k.namespaces(names())
			if !maps.Equal(there, now) {
				event()
			}
			there = now
		case <-events:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(settle):
			}
			// What came meanwhile is part of this one.
			select {
			case <-events:
			default:
			}
			changed()
		}
	}
}

// namespace tells a network namespace from another that has its name later.
type namespace struct {
	dev, ino uint64
	id       int // in the daemon's namespace
}

// namespaces looks at the named namespaces that are there, and sees to it that
// each has an id in the daemon's, without which its events are not heard.
func (k *Kernel) namespaces(names []string) map[string]namespace {
	there := map[string]namespace{}
	for _, name := range names {
		if name == "" {
			continue
		}
		ns, err := lookNamespace(name)
		if err == nil {
			there[name] = ns
		} else if !errors.Is(err, os.ErrNotExist) {
			k.log.Debug("watch interfaces", "netns", name, "error", err)
		}
	}
	return there
}

func lookNamespace(name string) (namespace, error) {
	f, err := openNetns(name)
	if err != nil {
		return namespace{}, err
	}
	defer f.Close()
	ns := namespace{id: -1}
	info, err := f.Stat()
	if err != nil {
		return namespace{}, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		ns.dev, ns.ino = uint64(st.Dev), st.Ino
	}
	fd := int(f.Fd())
	if ns.id, err = netlink.GetNetNsIdByFd(fd); err == nil && ns.id < 0 {
		if err = netlink.SetNetNsIdByFd(fd, -1); err == nil { // any
			ns.id, err = netlink.GetNetNsIdByFd(fd)
		}
	}
	if err != nil {
		return namespace{}, fmt.Errorf("give the namespace an id: %w", err)
	}
	return ns, nil
}
