"""How this board is wired. The builder's file: leave out what you did not build. docs/build-a-pedal.md has the picture.

Runs in: the board.
"""

REVISION = 1  # of the firmware, told to the host

SWITCHES = (2, 3, 4, 5)  # GPIO of each footswitch, left to right, to ground; two to four of them
POTS = 6  # pots on channels 0 to 5 of the multiplexer
EXPRESSION = True  # an expression jack on channel 6
EXPRESSION_EMPTY = 9  # GPIO on the jack's switch: low while nothing is plugged in
MUX_SELECT = (10, 11, 12)  # GPIO on A, B, C of the 74HC4051
MUX_ADC = 26  # GPIO on its common pin
RELAY = 15  # GPIO to the relay's transistor: high puts the pedal into the signal path
LEDS = 16  # GPIO to the first of the WS2812 LEDs: status, deadline, one per switch (four places), tempo, clip
LED_BRIGHTNESS = 48  # of 255
UART = None  # None: USB. (0, 0, 1): UART 0 with TX on GPIO 0 and RX on GPIO 1, at 115,200 baud
