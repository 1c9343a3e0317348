package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A command does not run before its process is on record, so that no daemon
// that dies in between leaves one behind that nobody knows. So the process
// that is made is this program again, which waits to be let through, sets its
// limits, and becomes the command. That it is asked to do so is in its name.
const execName = "l3af-agent"

// The descriptors of the process while it waits.
const (
	gateFD   = 3 // one byte lets it through; its end ends the process
	reportFD = 4 // why it could not become the command
)

func init() {
	if os.Args[0] == execName {
		become(os.Args[1:])
	}
}

// become is a process that waits to be let through. args are the limits of CPU
// time (seconds) and address space (bytes), 0 for none, and the command.
func become(args []string) {
	// Nothing may ask for memory behind the limits: what it takes to become the
	// command comes from what is free by then.
	room := make([]byte, 4<<20)
	runtime.KeepAlive(room)
	runtime.GC()
	debug.SetGCPercent(-1)
	gate, report := os.NewFile(gateFD, "gate"), os.NewFile(reportFD, "report")
	unix.CloseOnExec(gateFD)
	unix.CloseOnExec(reportFD)
	fail := func(what string, err error) {
		fmt.Fprintf(report, "%s: %v", what, err)
		os.Exit(127)
	}
	if n, _ := gate.Read(make([]byte, 1)); n != 1 {
		os.Exit(127) // whoever made us is gone
	}
	for i, l := range []struct {
		what     string
		resource int
	}{{"limit CPU time", unix.RLIMIT_CPU}, {"limit memory", unix.RLIMIT_AS}} {
		limit, err := strconv.ParseUint(args[i], 10, 64)
		if err == nil && limit > 0 {
			err = unix.Setrlimit(l.resource, &unix.Rlimit{Cur: limit, Max: limit})
		}
		if err != nil {
			fail(l.what, err)
		}
	}
	// A file that was just written may be held open by a process that is being
	// made at the same time, for as long as that is not what it will be.
	var err error
	for range 100 {
		if err = syscall.Exec(args[2], args[2:], os.Environ()); !errors.Is(err, unix.ETXTBSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	fail("run", err)
}

// command is what is to run.
type command struct {
	dir            string   // working directory, and what the first word is in
	words          []string // with the first as in the document
	cpu            int      // seconds
	memory         int64    // bytes
	cgroup         *cgroup  // nil: that of the daemon
	stdout, stderr *os.File
}

// start makes the process of a command. record is called with it before it
// runs anything.
func (c *command) start(record func(*process) error) (*process, error) {
	if err := runnable(c.dir, c.words[0]); err != nil {
		return nil, fmt.Errorf("%s: %w", c.words[0], err)
	}
	gateR, gateW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer gateW.Close()
	reportR, reportW, err := os.Pipe()
	if err != nil {
		gateR.Close()
		return nil, err
	}
	defer reportR.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{execName, strconv.Itoa(c.cpu), strconv.FormatInt(c.memory, 10), "./" + c.words[0]}, c.words[1:]...)
	cmd.Dir = c.dir
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + c.dir, "PWD=" + c.dir}
	cmd.Stdout, cmd.Stderr = c.stdout, c.stderr
	cmd.ExtraFiles = []*os.File{gateR, reportW}
	// A session of its own: a process group that can be signalled as a whole.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.cgroup != nil {
		dir, err := c.cgroup.open()
		if err != nil {
			gateR.Close()
			reportW.Close()
			return nil, err
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	err = cmd.Start()
	gateR.Close()
	reportW.Close()
	if err != nil {
		return nil, err
	}
	p := own(cmd, c.cgroup)
	if p.start, err = startTime(p.pid); err == nil && record != nil {
		err = record(p)
	}
	if err == nil {
		_, err = gateW.Write([]byte{1})
	}
	if err != nil {
		gateW.Close() // it ends by itself
		<-p.done
		p.release()
		return nil, err
	}
	report, err := io.ReadAll(io.LimitReader(reportR, 1000))
	if err == nil && len(report) > 0 {
		err = fmt.Errorf("%s: %s", c.words[0], report)
	}
	if err != nil {
		<-p.done
		p.release()
		return nil, err
	}
	return p, nil
}
