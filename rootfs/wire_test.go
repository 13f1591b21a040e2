package rootfs

import (
	"testing"

	"thinrun/libcontainer/wire/wiretest"
)

func TestConfigSurvivesTheWire(t *testing.T) { wiretest.RoundTrip(t, (*Config).Code) }
