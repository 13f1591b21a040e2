package seccomp

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// slots is more than any table's highest number; the last ones are arm's private calls.
const (
	slots    = 1024
	ordinary = slots - armPrivateSize
)

// A space is one ABI's numbers and what the profile says of each.
type space struct {
	abi   abi
	last  uint32       // the highest number that the profile names, with the base; 0: none
	slots [slots]int32 // 0: the default; n: rules[n-1] without conditions; -n: links[n-1]
}

// link is a rule with conditions for one number; links form lists, the newest first.
type link struct {
	conds   []cond
	verdict uint32
	rule    int
	older   int32
}

// resolve enters every rule under its calls' numbers. A name that the table does not
// know is skipped, as libseccomp does: it may be newer than we are, or of another
// architecture.
func (p *profile) resolve(spaces []space) {
	at := -1
	for i := range p.rules {
		r := &p.rules[i]
		for _, name := range r.names {
			at = lookup(name, at)
			for s := range spaces {
				p.enter(&spaces[s], r, name, at)
			}
		}
	}
}

func (p *profile) enter(s *space, r *rule, name string, at int) {
	slot := -1
	if at >= 0 && table[at].nr[s.abi.column] >= 0 {
		slot = int(table[at].nr[s.abi.column])
		s.last = max(s.last, s.abi.base+uint32(slot))
	} else if s.abi.column == colARM {
		// These do not count for last: whatever comes between is still unknown.
		if nr := armCall(name); nr != 0 {
			slot = ordinary + int(nr-armPrivate)
		}
	}
	if r.redundant {
		return
	}
	list := r.alternatives
	if s.abi.narrow {
		list = r.narrow
	}
	if s.abi.mux {
		if nr, op := multiplexed(name); nr != 0 {
			for _, conds := range list {
				p.set(&s.slots[nr], r, through(op, conds, s.abi.narrow))
			}
		}
	}
	if slot >= 0 {
		for _, conds := range list {
			p.set(&s.slots[slot], r, conds)
		}
	}
}

// through returns the conditions under which a multiplexer makes a call. The first
// argument says which call it is; the call's own first one lies in memory, where a
// filter cannot look. libseccomp drops that condition and keeps the others.
func through(op uint64, conds []cond, narrow bool) []cond {
	muxed := fit([]cond{{arg: 0, op: cmpEQ, mask: ^uint64(0), value: op}}, narrow)
	for _, c := range conds {
		if c.arg != 0 {
			muxed = append(muxed, c)
		}
	}
	return muxed
}

// set adds a rule to what is known of a number. The first rule without conditions
// stands, whatever came before or comes later.
func (p *profile) set(slot *int32, r *rule, conds []cond) {
	if *slot > 0 {
		return
	}
	if len(conds) == 0 {
		*slot = int32(r.at) + 1
		return
	}
	p.links = append(p.links, link{conds: conds, verdict: r.verdict, rule: r.at, older: -*slot})
	*slot = -int32(len(p.links))
}

// A chain is a sequence of clauses that has been written; equal ones are shared.
type chain struct {
	clauses []clause
	narrow  bool
	start   target
}

// runs writes the chains of one architecture's spaces (two for x86-64 with x32) and
// returns the answers for all numbers from 0 to 2^32-1.
func (p *profile) runs(a *assembler, spaces []space, chains *[]chain) ([]run, error) {
	runs := make([]run, 0, 128)
	add := func(from uint32, to target) {
		if n := len(runs); n > 0 && runs[n-1].from == from {
			runs = runs[:n-1] // it was empty
		}
		if n := len(runs); n == 0 || runs[n-1].to != to {
			runs = append(runs, run{from, to})
		}
	}
	for i := range spaces {
		s := &spaces[i]
		high := 0 // the first slot after the last that says something
		for n := range ordinary {
			if s.slots[n] != 0 {
				high = n + 1
			}
		}
		if err := p.answers(a, s, 0, high, s.abi.base, chains, add); err != nil {
			return nil, err
		}
		unknown := give(p.action)
		add(s.abi.base+uint32(high), unknown)
		if p.enosys && s.last != 0 {
			unknown = give(enosys)
			add(s.last+1, unknown)
		}
		switch s.abi.column {
		case colARM:
			if err := p.answers(a, s, ordinary, slots, armPrivate, chains, add); err != nil {
				return nil, err
			}
			add(armPrivate+armPrivateSize, unknown)
		case colAMD64:
			if len(spaces) == 1 {
				add(x32Bit, give(unix.SECCOMP_RET_KILL_THREAD))
				// A tracer skips a call by making it number -1 (seccomp(2)).
				add(^uint32(0), give(p.action))
			}
		}
	}
	return runs, nil
}

// answers adds what the slots in [from, to) say, for numbers from base on.
func (p *profile) answers(a *assembler, s *space, from, to int, base uint32, chains *[]chain, add func(uint32, target)) error {
	for n := from; n < to; n++ {
		nr := base + uint32(n-from)
		switch slot := s.slots[n]; {
		case slot == 0:
			add(nr, give(p.action))
		case slot > 0:
			add(nr, give(p.rules[slot-1].verdict))
		default:
			start, err := p.write(a, s.abi, -slot, chains)
			if err != nil {
				return fmt.Errorf("linux.seccomp.syscalls[%d]: %s (%s): %w", p.links[-slot-1].rule, nameOf(s.abi, n), s.abi.name, err)
			}
			add(nr, start)
		}
	}
	return nil
}

// write writes the clauses of one number, unless the same are there already.
func (p *profile) write(a *assembler, on abi, newest int32, chains *[]chain) (target, error) {
	var clauses []clause
	for i := newest; i != 0; i = p.links[i-1].older {
		l := &p.links[i-1]
		clauses = append(clauses, clause{l.conds, l.verdict, l.rule})
	}
	slices.Reverse(clauses)
	clauses, err := arrange(clauses, on.narrow)
	if err != nil {
		return target{}, err
	}
	if len(clauses) > maxInstructions {
		return target{}, tooLong(len(clauses))
	}
	for _, c := range *chains {
		if c.narrow == on.narrow && slices.EqualFunc(c.clauses, clauses, func(x, y clause) bool {
			return x.verdict == y.verdict && slices.Equal(x.conds, y.conds)
		}) {
			return c.start, nil
		}
	}
	start := a.chain(clauses, on, give(p.action))
	*chains = append(*chains, chain{clauses, on.narrow, start})
	return start, nil
}

// nameOf finds a number's name for a message.
func nameOf(on abi, slot int) string {
	for i := range table {
		if int(table[i].nr[on.column]) == slot {
			return table[i].name
		}
	}
	return fmt.Sprintf("system call %d", slot)
}
