package plan

import (
	"testing"

	"thinrun/libcontainer/wire/wiretest"
)

func TestInitSurvivesTheWire(t *testing.T) { wiretest.RoundTrip(t, (*Init).Code) }
