-- Events as rows, for people: a view, so that an event is stored once.
--
-- An event of hopping windows stands in several windows; the one whose first
-- step it falls into is its primary window, and only that one shows it.
--
-- The names are the symbols of the enums in schemas/avro/interaction_batch.avsc,
-- in their order; a test compares the two.
CREATE VIEW IF NOT EXISTS interactions
(
    time           DateTime64(3, 'UTC') COMMENT 'When it happened, at the policy''s resolution',
    session        String COMMENT 'Session, as the producer named it',
    subject        String COMMENT 'Keyed pseudonym of the person recorded',
    number         Int64 COMMENT 'Running number of the event in its session',
    kind           LowCardinality(String) COMMENT 'What happened',
    application    LowCardinality(String) COMMENT 'The application in front; empty where unknown or withheld',
    x              Int32 COMMENT 'Pointer position from the left, px',
    y              Int32 COMMENT 'Pointer position from the top, px',
    button         LowCardinality(String) COMMENT 'Pointer button of a pointer_button event',
    pressed        UInt8 COMMENT '1 where a button or key went down',
    wheel_x        Int32 COMMENT 'Horizontal wheel movement, notches',
    wheel_y        Int32 COMMENT 'Vertical wheel movement, notches',
    key_class      LowCardinality(String) COMMENT 'Class of the key of a key event',
    role           LowCardinality(String) COMMENT 'Role of the element of an element event',
    screen_width   Int32 COMMENT 'Width of the screen, px; 0 where unknown',
    screen_height  Int32 COMMENT 'Height of the screen, px; 0 where unknown',
    purposes       Array(LowCardinality(String)) COMMENT 'Purposes that the subject had consented to',
    policy         LowCardinality(String) COMMENT 'Policy applied, by name',
    policy_version Int32 COMMENT 'Policy applied, by version',
    window_start   Int64 COMMENT 'Start of the window that holds it, ms since 1970-01-01 UTC'
)
COMMENT 'One row an event, codes as names, primary windows only'
AS
SELECT
    fromUnixTimestamp64Milli(window_start + event_offset, 'UTC') AS time,
    session,
    subject,
    event_number AS number,
    ['unknown', 'session_start', 'session_pause', 'session_resume', 'session_end', 'pointer_move',
     'pointer_button', 'wheel', 'key', 'focus', 'element'][event_kind + 1] AS kind,
    applications[event_application + 1] AS application,
    event_x AS x,
    event_y AS y,
    ['none', 'left', 'right', 'middle', 'back', 'forward', 'other'][event_button + 1] AS button,
    event_pressed AS pressed,
    event_wheel_x AS wheel_x,
    event_wheel_y AS wheel_y,
    ['none', 'letter', 'digit', 'punctuation', 'space', 'enter', 'tab', 'editing', 'navigation',
     'modifier', 'function', 'other'][event_key_class + 1] AS key_class,
    ['none', 'window', 'button', 'link', 'text_field', 'checkbox', 'radio', 'menu', 'menu_item', 'tab',
     'list_item', 'table_cell', 'image', 'document', 'other'][event_role + 1] AS role,
    screen_width,
    screen_height,
    purposes,
    policy,
    policy_version,
    window_start
FROM windows AS w
ARRAY JOIN
    w.number AS event_number,
    w.offset_ms AS event_offset,
    w.kind AS event_kind,
    w.application AS event_application,
    w.x AS event_x,
    w.y AS event_y,
    w.button AS event_button,
    w.pressed AS event_pressed,
    w.wheel_x AS event_wheel_x,
    w.wheel_y AS event_wheel_y,
    w.key_class AS event_key_class,
    w.role AS event_role
WHERE window_kind != 'hopping' OR event_offset < step_ms;
