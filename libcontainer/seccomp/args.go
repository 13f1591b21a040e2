package seccomp

import (
	"cmp"
	"fmt"
	"slices"
)

type operator uint8

const (
	cmpNE operator = iota
	cmpLT
	cmpLE
	cmpEQ
	cmpGE
	cmpGT
	cmpMaskedEQ
)

func operatorOf(name string) (operator, bool) {
	switch name {
	case "SCMP_CMP_NE":
		return cmpNE, true
	case "SCMP_CMP_LT":
		return cmpLT, true
	case "SCMP_CMP_LE":
		return cmpLE, true
	case "SCMP_CMP_EQ":
		return cmpEQ, true
	case "SCMP_CMP_GE":
		return cmpGE, true
	case "SCMP_CMP_GT":
		return cmpGT, true
	case "SCMP_CMP_MASKED_EQ":
		return cmpMaskedEQ, true
	}
	return 0, false
}

// cond is one comparison of one argument.
type cond struct {
	arg   uint8
	op    operator
	mask  uint64 // all ones, except for cmpMaskedEQ
	value uint64
}

// condOf takes over an argument. As in libseccomp, the value's bits outside of the mask
// do not count.
func condOf(a Arg) (cond, bool) {
	op, ok := operatorOf(a.Op)
	c := cond{arg: uint8(a.Index), op: op, mask: ^uint64(0), value: a.Value}
	if op == cmpMaskedEQ {
		c.mask, c.value = a.Value, a.Value&a.ValueTwo
	}
	return c, ok
}

// fit returns the conditions as an ABI with narrow arguments sees them, without those
// that always hold.
func fit(conds []cond, narrow bool) []cond {
	plain := func(c cond) bool {
		return c.mask == ^uint64(0) && (!narrow || c.value>>32 == 0)
	}
	if !narrow && !slices.ContainsFunc(conds, func(c cond) bool { return c.mask == 0 }) {
		return conds
	}
	fitted := make([]cond, 0, len(conds))
	for _, c := range conds {
		if narrow && !plain(c) {
			c.mask |= ^uint64(0xffffffff) // the high word is zero: never compared
			c.value &= 0xffffffff
			if c.op == cmpMaskedEQ && uint32(c.mask) == 0 {
				continue
			}
		} else if c.op == cmpMaskedEQ && c.mask == 0 {
			continue
		}
		fitted = append(fitted, c)
	}
	return fitted
}

// A clause is a rule's conditions for one system call and what follows if all hold.
type clause struct {
	conds   []cond // by argument, ascending
	verdict uint32
	rule    int // index in linux.seccomp.syscalls
}

// before orders two conditions as libseccomp does: the last argument first, then the
// more specific operator, then the value that is harder to meet; 0 leaves it to the
// profile's order. It matters only where rules with different actions overlap.
func before(a, b cond, narrow bool) int {
	if a.arg != b.arg {
		return cmp.Compare(b.arg, a.arg)
	}
	if rank(a.op) != rank(b.op) {
		return cmp.Compare(rank(b.op), rank(a.op))
	}
	x, y := a.value, b.value
	if !narrow && ((a.op == cmpMaskedEQ) != (b.op == cmpMaskedEQ) || a.mask>>32 != b.mask>>32) {
		// libseccomp compares word by word and stops at the first if they are not
		// the same test.
		x, y = x>>32, y>>32
	}
	if a.op == cmpLT || a.op == cmpLE {
		return cmp.Compare(x, y)
	}
	return cmp.Compare(y, x)
}

func rank(op operator) int {
	switch op {
	case cmpGE, cmpGT:
		return 1
	case cmpLT, cmpLE:
		return 2
	}
	return 3
}

func (c clause) before(d clause, narrow bool) bool {
	for i := range min(len(c.conds), len(d.conds)) {
		if c.conds[i] == d.conds[i] {
			continue
		}
		return before(c.conds[i], d.conds[i], narrow) < 0
	}
	return len(c.conds) < len(d.conds)
}

// arrange puts the clauses of one system call, given in the profile's order, into the
// order in which they are tried. A clause that an earlier, shorter one already covers is
// dropped. libseccomp refuses a later one that would take back what an earlier one says
// (EEXIST), and with it runc; so do we, with the two rules' places.
func arrange(clauses []clause, narrow bool) ([]clause, error) {
	order := make([]clause, 0, len(clauses))
next:
	for _, c := range clauses {
		for i := 0; i < len(order); i++ {
			o := order[i]
			n := min(len(c.conds), len(o.conds))
			if !slices.Equal(c.conds[:n], o.conds[:n]) {
				continue
			}
			switch {
			case len(o.conds) < len(c.conds), len(o.conds) == len(c.conds) && o.verdict == c.verdict:
				continue next
			case o.verdict != c.verdict:
				return nil, fmt.Errorf("the same arguments have another action in linux.seccomp.syscalls[%d]", o.rule)
			}
			order = slices.Delete(order, i, i+1)
			i--
		}
		// Behind its equals: the profile's order decides between them.
		at := 0
		for at < len(order) && !c.before(order[at], narrow) {
			at++
		}
		order = slices.Insert(order, at, c)
	}
	return order, nil
}

// chain writes the clauses and returns where they start; otherwise is what follows when
// none holds.
func (a *assembler) chain(clauses []clause, on abi, otherwise target) target {
	next := otherwise
	for end := len(clauses); end > 0; {
		// Values that only differ in the low word share the look at the high one.
		start := end - 1
		for start > 0 && alike(clauses[start-1], clauses[end-1], on) {
			start--
		}
		next = a.clauses(clauses[start:end], on, next)
		end = start
	}
	return next
}

// alike tells whether both are a single test for equality, of the same argument, with
// the same high word.
func alike(c, d clause, on abi) bool {
	if len(c.conds) != 1 || len(d.conds) != 1 {
		return false
	}
	a, b := c.conds[0], d.conds[0]
	return a.op == cmpEQ && b.op == cmpEQ && a.arg == b.arg && (on.narrow || a.value>>32 == b.value>>32)
}

// clauses writes one clause, or several that are alike.
func (a *assembler) clauses(list []clause, on abi, next target) target {
	if len(list) == 1 {
		to := give(list[0].verdict)
		for i := len(list[0].conds) - 1; i >= 0; i-- {
			to = a.test(list[0].conds[i], on, to, next)
		}
		return to
	}
	first := list[0].conds[0]
	hi, lo := words(first.arg, on)
	last := next
	for i := len(list) - 1; i >= 0; i-- {
		last = a.branch(opEqual, uint32(list[i].conds[0].value), give(list[i].verdict), last)
	}
	last = a.load(lo)
	if on.narrow {
		return last
	}
	a.branch(opEqual, uint32(first.value>>32), last, next)
	return a.load(hi)
}

// words returns the offsets of an argument's two halves.
func words(arg uint8, on abi) (hi, lo uint32) {
	lo = offArgs + 8*uint32(arg)
	if on.big {
		return lo, lo + 4
	}
	return lo + 4, lo
}

// test writes one comparison of an argument of up to 64 bits by its 32-bit halves.
func (a *assembler) test(c cond, on abi, yes, no target) target {
	op := c.op
	switch op {
	case cmpNE, cmpLT, cmpLE:
		op = [...]operator{cmpNE: cmpEQ, cmpLT: cmpGE, cmpLE: cmpGT}[op]
		yes, no = no, yes
	}
	hi, lo := words(c.arg, on)
	valueHi, valueLo := uint32(c.value>>32), uint32(c.value)
	maskHi, maskLo := uint32(c.mask>>32), uint32(c.mask)
	switch op {
	case cmpGE, cmpGT:
		code := uint16(opFrom)
		if op == cmpGT {
			code = opAbove
		}
		a.branch(code, valueLo, yes, no)
		low := a.load(lo)
		if on.narrow {
			return low
		}
		if valueHi == 0 {
			a.branch(opEqual, 0, low, yes)
			return a.load(hi)
		}
		equal := a.branch(opEqual, valueHi, low, no)
		a.branch(opAbove, valueHi, yes, equal)
		return a.load(hi)
	}
	if maskLo != 0 {
		a.word(maskLo, valueLo, yes, no)
		yes = a.load(lo)
	}
	if on.narrow || maskHi == 0 {
		return yes
	}
	a.word(maskHi, valueHi, yes, no)
	return a.load(hi)
}

// word compares the loaded word under a mask.
func (a *assembler) word(mask, value uint32, yes, no target) {
	switch {
	case mask == ^uint32(0):
		a.branch(opEqual, value, yes, no)
	case value == 0:
		a.branch(opSet, mask, no, yes)
	default:
		a.branch(opEqual, value, yes, no)
		a.put(opAnd, 0, 0, mask)
	}
}
