package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a command that runs, made by this daemon or by one before it.
type process struct {
	pid    int
	start  uint64   // when it began, in clock ticks since boot: what else a pid may come to mean, began later
	pidfd  *os.File // of pid; nil where the kernel has none
	cgroup *cgroup
	done   chan struct{} // closed when it has ended, and is reaped
	err    error         // after that: how it ended, nil with status 0
}

// errUnknownEnd: it was another daemon's child.
var errUnknownEnd = errors.New("it has ended")

// own is a process that was made here.
func own(cmd *exec.Cmd, c *cgroup) *process {
	p := &process{pid: cmd.Process.Pid, cgroup: c, done: make(chan struct{})}
	// Until it is waited for, the pid is its own.
	if fd, err := unix.PidfdOpen(p.pid, 0); err == nil {
		p.pidfd = pidfdFile(fd)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p
}

// find gives a process that another daemon made; nil if it has ended.
func find(pid int, start uint64, c *cgroup) *process {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	// From here on the pidfd means one process, whatever becomes of the pid.
	if now, err := startTime(pid); err != nil || now != start {
		unix.Close(fd)
		return nil
	}
	p := &process{pid: pid, start: start, cgroup: c, pidfd: pidfdFile(fd), done: make(chan struct{})}
	go func() {
		if p.watch() {
			p.err = errUnknownEnd
			close(p.done)
		}
	}()
	return p
}

// pidfdFile waits without a thread. Nobody else may have the descriptor: it
// does not block.
func pidfdFile(fd int) *os.File {
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), "pidfd")
}

// watch returns true when the process has ended, false when its pidfd is
// closed before.
func (p *process) watch() bool {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return false
	}
	return conn.Read(func(fd uintptr) bool {
		// A pidfd is readable when its process has ended.
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	}) == nil
}

// startTime is field 22 of /proc/PID/stat. Zombies have ended: they have none.
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name before may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends a signal to the process group. The pidfd, or that the process
// is not reaped yet, makes sure that it is still ours.
func (p *process) signal(sig unix.Signal) {
	if p.pidfd != nil {
		const processGroup = 4 // PIDFD_SIGNAL_PROCESS_GROUP, since Linux 6.9
		var err error
		if conn, connErr := p.pidfd.SyscallConn(); connErr == nil {
			_ = conn.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, processGroup) })
		}
		if !errors.Is(err, unix.EINVAL) {
			return
		}
	}
	if !p.ended() {
		_ = unix.Kill(-p.pid, sig)
	}
}

// end ends the process and all that it made: with SIGTERM, and with SIGKILL
// what is there after grace.
func (p *process) end(grace time.Duration) {
	if grace > 0 {
		p.signal(unix.SIGTERM)
		limit := time.NewTimer(grace)
		defer limit.Stop()
		select {
		case <-p.done:
			p.empty(limit.C)
		case <-limit.C:
		}
	}
	p.signal(unix.SIGKILL)
	p.cgroup.kill()
	<-p.done
}

// empty waits until nothing of its cgroup runs any more.
func (p *process) empty(limit <-chan time.Time) {
	for pause := time.Millisecond; p.cgroup.populated(); pause = min(2*pause, 100*time.Millisecond) {
		select {
		case <-limit:
			return
		case <-time.After(pause):
		}
	}
}

// release gives up what is held of the process, which may run on. A child of
// ours is still reaped.
func (p *process) release() {
	if p.pidfd != nil {
		p.pidfd.Close()
	}
}
