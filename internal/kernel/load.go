package kernel

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/host"
)

// check refuses a load that makes no sense, before anything is touched.
func check(load host.Load) error {
	if err := checkTarget(load.Target); err != nil {
		return err
	}
	c := load.Chain
	switch {
	case c == nil || c.Program == nil:
		return errors.New("no program to load")
	case c.Kind != load.Target.Hook.Kind:
		return fmt.Errorf("a chain for %q at %s", c.Kind, load.Target)
	case c.Kind == l3af.XDP && !slices.Contains([]l3af.Mode{"", l3af.Auto, l3af.Native, l3af.Generic, l3af.Offload}, load.Mode):
		return fmt.Errorf("unknown mode %q", load.Mode)
	}
	return nil
}

// loadProgram has the kernel verify the chain's program. ifindex is that of
// the device to offload it to, else 0.
func loadProgram(load host.Load, maps *mapSet, ifindex int) (*ebpf.Program, error) {
	spec := load.Chain.Program.Copy()
	switch load.Chain.Kind {
	case l3af.XDP:
		spec.Type, spec.AttachType = ebpf.XDP, ebpf.AttachXDP
	case l3af.TCIngress, l3af.TCEgress:
		spec.Type, spec.AttachType = ebpf.SchedCLS, tcxAttachType(load.Chain.Kind)
	}
	spec.Ifindex = uint32(ifindex)
	if err := maps.bind(spec.Instructions); err != nil {
		return nil, err
	}
	p, err := ebpf.NewProgram(spec)
	if rejected := (*ebpf.VerifierError)(nil); errors.As(err, &rejected) {
		err = &verifierError{rejected}
	}
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	return p, nil
}

// verifierError is an [ebpf.VerifierError] whose text is the whole log, not
// its last line.
type verifierError struct{ err *ebpf.VerifierError }

func (e *verifierError) Error() string {
	// Refusals before the verifier began have no log.
	return strings.TrimSuffix(strings.TrimSpace(fmt.Sprintf("%+v", e.err)), ":")
}
func (e *verifierError) Unwrap() error { return e.err }
